"""The firmware's boot entries about these disks: what we call ours, and which are stale."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from uuid import UUID

from agent.inventory.model import Disk
from agent.machine import BootEntry, Machine


def label(system: str, number: int, disk: Disk) -> str:
    """Return what the entry of a disk is called."""
    return f"{system} (disk {number}, {_serial(disk)})"


def remove_stale(
    machine: Machine, ours: Collection[UUID], disks: Iterable[Disk]
) -> tuple[str, ...]:
    """Remove the entries of what was on these disks before; return their labels.

    An entry is stale that points to an ESP in `ours` (the same once more), or to a partition that
    one of the disks had when they were chosen, or carries one of our names for them. One that
    points to a disk which is not there is left alone: somebody may have pulled it to keep it safe.
    """
    chosen = tuple(disks)
    gone = {str(partuuid) for partuuid in ours}
    gone |= {partuuid for disk in chosen for partuuid in disk.partitions}
    stale = [entry for entry in machine.firmware.entries() if _stale(entry, gone, chosen)]
    for entry in stale:
        machine.firmware.delete(entry.number)
    return tuple(entry.label for entry in stale)


def _stale(entry: BootEntry, gone: Collection[str], disks: Iterable[Disk]) -> bool:
    return entry.partuuid in gone or any(
        re.fullmatch(rf".* \(disk \d+, {re.escape(_serial(disk))}\)", entry.label) for disk in disks
    )


def _serial(disk: Disk) -> str:
    return disk.serial or disk.wwn or "no serial"
