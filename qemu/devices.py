"""What can be changed on a machine while it runs: disks in and out, the network's cable."""

from __future__ import annotations

import re
from typing import Any

from qemu.errors import RigError
from qemu.machine import Drive, Machine, device, node, port
from qemu.qmp import Qmp

_FORWARD = re.compile(r"^\s*TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)", re.MULTILINE)


class Devices:
    """The devices of a running machine."""

    def __init__(self, machine: Machine, qmp: Qmp) -> None:
        self._qmp = qmp
        self._ports = {port(number): "" for number in range(machine.hotplug_ports)}

    def plug(self, drive: Drive) -> None:
        """Put a disk in (virtio or nvme); the guest sees it a moment later."""
        if drive.bus not in ("virtio", "nvme"):
            raise RigError(f"{drive.name}: a disk on {drive.bus} cannot be hot-plugged")
        free = next((name for name, drive_name in self._ports.items() if not drive_name), None)
        if free is None:
            raise RigError(f"{drive.name}: all {len(self._ports)} hot-plug ports are taken")
        cache = {"direct": False, "no-flush": drive.cache == "unsafe"}
        self._qmp.execute("blockdev-add", {
            "driver": drive.format, "node-name": node(drive), "discard": "unmap", "cache": cache,
            "read-only": drive.readonly,
            "file": {"driver": "file", "filename": str(drive.file.resolve()), "cache": cache},
        })  # fmt: skip
        try:
            self._qmp.execute("device_add", {**device(drive), "bus": free})
        except RigError:
            self._qmp.execute("blockdev-del", {"node-name": node(drive)})
            raise
        self._ports[free] = drive.name

    def unplug(self, name: str, timeout: float = 30) -> None:
        """Take a disk out that was plugged in; returns when the guest has let go of it."""
        place = next((at for at, drive_name in self._ports.items() if drive_name == name), None)
        if place is None:
            raise RigError(f"{name}: was not plugged in, so it cannot be unplugged")
        self._qmp.execute("device_del", {"id": name})
        self._qmp.wait("DEVICE_DELETED", timeout, device=name)
        self._qmp.execute("blockdev-del", {"node-name": f"{name}-disk"})
        self._ports[place] = ""

    def cable(self, plugged: bool, nic: int = 0) -> None:
        """Pull the network cable, or put it back."""
        self._qmp.execute("set_link", {"name": f"nic{nic}", "up": plugged})

    def writes(self, name: str) -> int:
        """Return how many write and discard requests the guest has sent to a disk so far."""
        for entry in self._qmp.execute("query-blockstats"):
            if name in _names(entry):
                stats = entry["stats"]
                return int(stats["wr_operations"]) + int(stats["unmap_operations"])
        raise RigError(f"{name}: the machine has no such disk")

    def forwarded(self, guest_port: int) -> int:
        """Return the host's loopback port that leads to this port of the guest."""
        for host, guest in _FORWARD.findall(self._qmp.hmp("info usernet")):
            if int(guest) == guest_port:
                return int(host)
        raise RigError(f"port {guest_port} of the guest is not forwarded")


def _names(entry: dict[str, Any]) -> set[str]:
    """Return the names a block statistic goes by: of the drive, and along its device's path."""
    path = str(entry.get("qdev", "")).split("/")
    return {*path, str(entry.get("device", "")).removesuffix("-disk")}
