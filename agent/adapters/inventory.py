"""The whole `Inventory` of this machine: DMI, firmware, TPM presence, memory, disks, NICs.

Reads only, and asks nothing of the TPM: what changes its state belongs to the checks.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from agent.adapters import command
from agent.adapters.disks import DiskReader
from agent.errors import CommandError
from agent.inventory.model import Dmi, Firmware, Inventory, Nic, Tpm

log = logging.getLogger(__name__)

# EFI_GLOBAL_VARIABLE; the first four bytes of an efivarfs file are attributes (UEFI 2.10 §3.3).
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# What boards are shipped with where nobody filled the fields in.
_PLACEHOLDERS = {
    "", "0", "none", "default string", "not specified", "to be filled by o.e.m.",
    "system serial number", "unknown", "0123456789", "not applicable",
}  # fmt: skip
_EMPTY_UUIDS = {UUID(int=0), UUID(int=2**128 - 1)}


@dataclass(frozen=True)
class InventoryReader:
    """Records the machine; `sys` and `proc` are elsewhere in tests."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    run: command.Run = command.run
    disks: DiskReader = field(default_factory=DiskReader)

    def read(self) -> Inventory:
        return Inventory(
            dmi=self.dmi(),
            firmware=self.firmware(),
            tpm=self.tpm(),
            memory=self.memory(),
            cpus=len(os.sched_getaffinity(0)),
            disks=self.disks.disks(),
            nics=self.nics(),
        )

    def dmi(self) -> Dmi:
        """Return what the board says of itself; the kernel lets only root read serial and UUID."""
        raw = {name: self._read(f"class/dmi/id/{name}") for name in ("sys_vendor", "product_name")}
        return Dmi(
            vendor=_said(raw["sys_vendor"]),
            product=_said(raw["product_name"]),
            serial=_said(self._read("class/dmi/id/product_serial")),
            uuid=_uuid(self._read("class/dmi/id/product_uuid")),
        )

    def firmware(self) -> Firmware:
        efi = self.sys / "firmware/efi"
        try:
            secure = (efi / "efivars" / _SECURE_BOOT).read_bytes()[4:5] == b"\1"
        except OSError:
            secure = False
        return Firmware(uefi=efi.is_dir(), secure_boot=secure)

    def tpm(self) -> Tpm | None:
        """Return the first TPM 2.0 the kernel has, with the bank it shows in sysfs."""
        for chip in sorted((self.sys / "class/tpm").glob("tpm*")):
            if self._read(f"class/tpm/{chip.name}/tpm_version_major") != "2":
                continue
            number = chip.name.removeprefix("tpm")
            bank = (chip / "pcr-sha256").is_dir()
            vendor = self._read(f"class/tpm/{chip.name}/device/description")
            return Tpm(device=f"/dev/tpmrm{number}", vendor=vendor, sha256_bank=bank)
        return None

    def memory(self) -> int:
        for line in (self.proc / "meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
        raise ValueError("/proc/meminfo: has no MemTotal")

    def nics(self) -> tuple[Nic, ...]:
        """Return the cards: interfaces with a device behind them, so no bridges or tunnels."""
        links = self._links()
        cards = sorted(path.parent for path in (self.sys / "class/net").glob("*/device"))
        return tuple(self._nic(card, links.get(card.name, {})) for card in cards)

    def _nic(self, card: Path, link: Mapping[str, Any]) -> Nic:
        def attribute(name: str) -> str | None:
            return self._read(f"class/net/{card.name}/{name}")

        # Reading carrier or speed of an interface that is down fails with EINVAL.
        speed = int(attribute("speed") or 0)
        driver = card / "device/driver"
        return Nic(
            name=card.name,
            # A port of a bond shows the bond's; its own is what a plan names it by.
            mac=link.get("permaddr") or attribute("address") or "",
            driver=driver.resolve().name if driver.exists() else None,
            carrier=attribute("carrier") == "1",
            speed=speed if speed > 0 else None,
            addresses=tuple(
                f"{a['local']}/{a['prefixlen']}"
                for a in link.get("addr_info", ())
                if a.get("scope") == "global"
            ),
        )

    def _links(self) -> dict[str, Mapping[str, Any]]:
        try:
            links = json.loads(self.run("ip", "-json", "address", "show"))
        except CommandError as error:
            log.warning("addresses are unknown: %s", error)
            return {}
        return {link["ifname"]: link for link in links}

    def _read(self, path: str) -> str | None:
        try:
            return (self.sys / path).read_text(errors="replace").strip() or None
        except OSError:
            return None


def _said(text: str | None) -> str | None:
    """Return a DMI string unless it is a placeholder."""
    return None if text is None or text.lower() in _PLACEHOLDERS else text


def _uuid(text: str | None) -> UUID | None:
    try:
        found = UUID(text or "")
    except ValueError:
        return None
    return None if found in _EMPTY_UUIDS else found
