"""The disks of this machine and what lies on them: pyudev, sysfs and libblkid, reading only.

Nothing here opens a device for writing, assembles an array or activates a volume.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyudev

from agent.adapters import command
from agent.adapters.age import last_used
from agent.adapters.medium import detachable
from agent.adapters.storage.erase import Signature, distinct, empty, signatures
from agent.adapters.storage.stack import Kernel, node
from agent.errors import CommandError, StepError
from agent.inventory.model import IMAGE, Content, Disk, Marker, Transport
from agent.media.names import LABEL
from agent.payload import gpt, stamp
from agent.target import marker

log = logging.getLogger(__name__)

ESP_NAME = "bedplate-esp"
# Whole "disks" that are views of something else, or have no medium worth writing (devices.txt).
_VIRTUAL = re.compile(
    r"(loop|ram|zram|md|dm-|sr|fd|nbd|rbd|drbd|bcache|zd|mtdblock|mmcblk\d+(boot|rpmb))\d*"
)
# The system's own view of the partition its boot stub was started from (systemd-stub(7)).
_LOADER_VARIABLE = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_BY_NAME: tuple[tuple[str, Transport], ...] = (
    ("nvme", "nvme"),
    ("mmcblk", "mmc"),
    ("vd", "virtio"),
)
_BY_PLACE: tuple[tuple[str, Transport], ...] = (
    ("/usb", "usb"),
    ("/rport-", "fc"),
    ("/session", "iscsi"),
)
Properties = Mapping[str, str]


@dataclass(frozen=True)
class DiskReader:
    """Reads `Disk` facts. Mounts below `own` are ours, left by an interrupted run."""

    run: command.Run = command.run
    attempt: command.Attempt = command.attempt
    kernel: Kernel = field(default_factory=Kernel)
    own: Path = Path("/run/bedplate")

    def disks(self) -> tuple[Disk, ...]:
        """Return every whole disk of the machine, in the kernel's order of names."""
        devices = pyudev.Context().list_devices(subsystem="block", DEVTYPE="disk")
        found = {d.sys_name: dict(d.properties) for d in devices if self._counts(d.sys_name)}
        return tuple(self._disk(name, found[name]) for name in sorted(found, key=_natural))

    def _counts(self, name: str) -> bool:
        hidden = self.kernel.attribute(name, "hidden") == "1"  # one path of a multipath NVMe
        return not (_VIRTUAL.fullmatch(name) or hidden) and self.kernel.size(name) > 0

    def _disk(self, name: str, properties: Properties) -> Disk:
        kernel = self.kernel
        serial, wwn, size = identity(name, kernel, properties)
        try:
            content = tuple(self._content(name))
        except StepError as error:
            # One broken disk must not hide the others; whatever is on it is not ours to erase.
            log.warning("%s: cannot be read: %s", name, error)
            content = (self._found(name, "unreadable"),)
        place = location(name, kernel)
        return Disk(
            path=str(node(name)),
            by_id=links(properties, "by-id"),
            by_path=links(properties, "by-path"),
            serial=serial,
            wwn=wwn,
            model=model(name, kernel, properties),
            size=size,
            sector_size=_number(kernel, name, "queue/logical_block_size", 512),
            physical_sector_size=_number(kernel, name, "queue/physical_block_size", 512),
            transport=transport(name, place, properties),
            rotational=kernel.attribute(name, "queue/rotational") == "1",
            removable=kernel.attribute(name, "removable") == "1",
            read_only=kernel.attribute(name, "ro") == "1",
            boot_medium=self._is_medium(name, properties, content),
            controller=controller(place),
            in_use=tuple(self._uses(name)),
            content=content,
            partitions=tuple(filter(None, map(self._partuuid, kernel.partitions(name)))),
            volume_groups=self._volume_groups(content),
            marker=self._marker(name, content),
        )

    def _content(self, disk: str) -> Iterator[Content]:
        """Yield what would be lost: of the disk itself, then of every partition."""
        parts = self.kernel.partitions(disk)
        whole = signatures(self.run, node(disk))
        if not whole and not parts:
            if not empty(node(disk)):
                under_way = is_under_way(node(disk), self.kernel.size(disk))
                yield self._found(disk, IMAGE if under_way else "data")
            return
        for signature in distinct(whole):
            yield self._found(disk, signature.kind, signature)
        names = self._partition_names(disk) if parts else {}
        for part in parts:
            inside = distinct(signatures(self.run, node(part)))
            kinds: list[tuple[str, Signature | None]] = [(s.kind, s) for s in inside]
            if not inside:
                kinds = [("empty" if empty(node(part)) else "data", None)]
            for kind, found in kinds:
                yield self._found(part, kind, found, names.get(str(node(part))))

    def _found(
        self, name: str, kind: str, signature: Signature | None = None, called: str | None = None
    ) -> Content:
        label, uuid = (signature.label, signature.uuid) if signature else (None, None)
        return Content(
            device=str(node(name)), kind=kind, label=label or None, uuid=uuid or None,
            size=self.kernel.size(name), partition_name=called or None,
            last_used=last_used(node(name), kind, signature.offset) if signature else None,
        )  # fmt: skip

    def _partition_names(self, disk: str) -> dict[str, str]:
        """Return the GPT names by device node; empty when sfdisk cannot read the table."""
        done = self.attempt("sfdisk", "--json", node(disk))
        if done.status:
            log.warning("%s: %s", disk, done.stderr.strip())
            return {}
        table = json.loads(done.stdout)["partitiontable"]
        return {p["node"]: p.get("name", "") for p in table.get("partitions", [])}

    def _uses(self, disk: str) -> Iterator[str]:
        """Yield why it must not be erased. What is merely assembled can be taken apart."""
        for name in (*self.kernel.above(disk), disk):
            for mount in self.kernel.mounts(name):
                if not mount.is_relative_to(self.own):
                    yield f"{node(name)} is mounted at {mount}"
            if self.kernel.swaps(name):
                yield f"{node(name)} is in use as swap"

    def _is_medium(self, disk: str, properties: Properties, content: tuple[Content, ...]) -> bool:
        # As in `medium`: the label alone says nothing of an internal disk, it may be a stale one.
        if detachable(properties) and any(found.label == LABEL for found in content):
            return True
        return self._booted_from(disk)

    def _booted_from(self, disk: str) -> bool:
        try:
            raw = (self.kernel.sys / "firmware/efi/efivars" / _LOADER_VARIABLE).read_bytes()
        except OSError:
            return False
        loader = raw[4:].decode("utf-16-le", errors="replace").rstrip("\0").lower()
        uuids = (self._partuuid(part) for part in self.kernel.partitions(disk))
        return loader in uuids

    def _partuuid(self, partition: str) -> str | None:
        # The kernel parsed the table itself and shows the UUID since 2.6.36 (block/partitions).
        text = self.kernel.attribute(partition, "uevent") or ""
        found = re.search(r"^PARTUUID=(.+)$", text, re.MULTILINE)
        return found[1].lower() if found else None

    def _volume_groups(self, content: tuple[Content, ...]) -> tuple[str, ...]:
        members = [found.device for found in content if found.kind == "LVM2_member"]
        names = {self._volume_group(member) for member in members}
        return tuple(sorted(name for name in names if name))

    def _volume_group(self, device: str) -> str | None:
        # --readonly: no lock, no metadata repair, no backup: nothing is written (lvm(8)).
        done = self.attempt(
            "pvs", "--readonly", "--noheadings", "--options", "vg_name", "--devices", device
        )
        return done.stdout.strip() or None if done.status == 0 else None

    def _marker(self, disk: str, content: tuple[Content, ...]) -> Marker | None:
        if any(found.kind == "gpt" for found in content) and (text := stamped(node(disk))):
            return parse_marker(text, str(node(disk)))
        for found in content:
            if found.partition_name == ESP_NAME and found.kind == "vfat":
                text = self._read(Path(found.device), marker.PATH)
                if text is not None:
                    return parse_marker(text, found.device)
        return None

    def _read(self, device: Path, path: str) -> str | None:
        """Read a small file of a file system that is not mounted, None if there is none.

        Mounted read-only for the purpose; vfat then leaves even its dirty flag alone.
        """
        place = self.own / f"look-{device.name}-{os.getpid()}"
        place.mkdir(parents=True, exist_ok=True)
        try:
            self.run(
                "mount", "-t", "vfat", "-o", "ro,nodev,nosuid,noexec,umask=0077", device, place
            )
        except CommandError as error:
            log.warning("%s: cannot look for an earlier installation: %s", device, error)
            place.rmdir()
            return None
        try:
            return (place / path).read_text(errors="replace")
        except OSError:
            return None
        finally:
            self.run("umount", place)
            place.rmdir()


def identity(
    name: str, kernel: Kernel, properties: Properties | None = None
) -> tuple[str | None, str | None, int]:
    """Return (serial, WWN, size in bytes) of a whole disk by its kernel name.

    The serial as the device says it: udev's own properties have blanks turned into `_`.
    """
    if properties is None:
        device = pyudev.Devices.from_name(pyudev.Context(), "block", name)
        properties = dict(device.properties)
    raw = (
        kernel.attribute(name, "device/serial")  # NVMe, MMC
        or kernel.attribute(name, "serial")  # virtio-blk
        or properties.get("ID_SCSI_SERIAL")
        or properties.get("ID_SERIAL_SHORT")
        or properties.get("ID_SERIAL")
    )
    wwn = (
        properties.get("ID_WWN_WITH_EXTENSION")
        or properties.get("ID_WWN")
        or kernel.attribute(name, "wwid")
    )
    return _text(raw), _text(wwn), kernel.size(name)


def model(name: str, kernel: Kernel, properties: Properties) -> str | None:
    """Return the model as the device says it; SCSI's sysfs cuts an ATA disk's off at 16."""
    encoded = properties.get("ID_MODEL_ENC", "")
    decoded = re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), encoded)
    return _text(decoded or kernel.attribute(name, "device/model") or properties.get("ID_MODEL"))


def links(properties: Properties, kind: str) -> tuple[str, ...]:
    """Return the links that survive a reboot: those below /dev/disk/by-id or by-path."""
    found = properties.get("DEVLINKS", "").split()
    return tuple(sorted(link for link in found if link.startswith(f"/dev/disk/{kind}/")))


def transport(name: str, place: str, properties: Properties) -> Transport:
    """Say how a disk is attached, from its name and its place in /sys/devices.

    A SATA disk behind a SAS controller is a SATA disk; behind a USB bridge it is a USB disk.
    """
    if "/nvme-fabrics/" in place:
        return "nvmeof"
    for prefix, by_name in _BY_NAME:
        if name.startswith(prefix):
            return by_name
    for sign, by_place in _BY_PLACE:
        if sign in place:
            return by_place
    if properties.get("ID_BUS") == "ata":
        return "sata"
    if "/end_device-" in place:
        return "sas"
    return "scsi" if "/target" in place else "unknown"


def controller(place: str) -> str | None:
    """Return the sysfs path of the PCI function nearest to the disk."""
    parts = place.split("/")
    for index in range(len(parts), 0, -1):
        if re.fullmatch(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", parts[index - 1]):
            return "/".join(parts[:index])
    return None


def location(name: str, kernel: Kernel) -> str:
    """Return where a disk stands in /sys/devices.

    An NVMe disk of several ports belongs to a subsystem that has no place of its own: then it is
    the first of its controllers (nvme/host/multipath.c).
    """
    place = kernel.block(name).resolve()
    if "/nvme-subsystem/" in str(place):
        ports = sorted(place.parent.glob("nvme[0-9]*"), key=lambda port: _natural(port.name))
        ports = [port for port in ports if (port / "transport").is_file()]
        return str(ports[0].resolve() / name) if ports else str(place)
    return str(place)


def stamped(disk: Path) -> str | None:
    """Return the marker of a whole-disk image, None where a disk has none.

    Read from the disk itself: where it is one leg of a mirror its partitions may not be shown.
    """
    try:
        with disk.open("rb") as device:
            partitions = gpt.parse(device.read(gpt.HEAD)).partitions
            ours = next((part for part in partitions if part.name == stamp.NAME), None)
            if ours is None:
                return None
            device.seek(ours.start)
            return device.read(stamp.ROOM).rstrip(b"\0").decode(errors="replace")
    except (OSError, gpt.NoTable) as error:
        log.warning("%s: cannot look for an earlier installation: %s", disk, error)
        return None


def is_under_way(disk: Path, size: int) -> bool:
    """Tell whether an image was being written to a disk when something stopped it."""
    try:
        with disk.open("rb") as device:
            device.seek(stamp.place(size))
            return device.read(len(stamp.UNDER_WAY)) == stamp.UNDER_WAY
    except OSError:
        return False


def parse_marker(text: str, where: str) -> Marker | None:
    """Return the note of a finished installation; None when it is damaged."""
    found = marker.parse(text.encode())
    if found is None:
        log.warning("%s: %s is not a marker", where, marker.PATH)
    return found


def _number(kernel: Kernel, name: str, attribute: str, default: int) -> int:
    return int(kernel.attribute(name, attribute) or default)


def _text(raw: str | None) -> str | None:
    return (raw or "").strip(" \0\t\n") or None


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    return tuple(
        (int(part or 0), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)
    )
