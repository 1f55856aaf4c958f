"""The firmware's boot entries about these disks: what we call ours, and which are stale."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from uuid import UUID

from agent.inventory.model import Disk
from agent.machine import BootEntry, Machine

BY_PARTUUID = Path("/dev/disk/by-partuuid")


def label(system: str, number: int, disk: Disk) -> str:
    """Return what the entry of a disk is called."""
    return f"{system} (disk {number}, {_serial(disk)})"


def remove_stale(
    machine: Machine, ours: Collection[UUID], disks: Iterable[Disk], partuuids: Path = BY_PARTUUID
) -> tuple[str, ...]:
    """Remove the entries of what was on these disks before; return their labels.

    An entry is stale that points to an ESP in `ours` (the same once more), or to a partition that
    no disk has any longer (`partuuids` is where udev shows those), or carries one of our names for
    these disks.
    """
    chosen = tuple(disks)
    partitions = {str(partuuid) for partuuid in ours}
    stale = [
        entry
        for entry in machine.firmware.entries()
        if _stale(entry, partitions, chosen, partuuids)
    ]
    for entry in stale:
        machine.firmware.delete(entry.number)
    return tuple(entry.label for entry in stale)


def _stale(entry: BootEntry, ours: Collection[str], disks: Iterable[Disk], partuuids: Path) -> bool:
    if entry.partuuid is not None and (
        entry.partuuid in ours or not (partuuids / entry.partuuid).exists()
    ):
        return True
    return any(
        re.fullmatch(rf".* \(disk \d+, {re.escape(_serial(disk))}\)", entry.label) for disk in disks
    )


def _serial(disk: Disk) -> str:
    return disk.serial or disk.wwn or "no serial"
