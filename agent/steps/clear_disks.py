"""Erase the chosen disks: whatever holds them is closed first, then nothing may be found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.inventory.identity import differences
from agent.inventory.model import Disk
from agent.layout.extents import gib
from agent.machine import Machine, Progress
from agent.steps.base import Evidence


@dataclass(frozen=True)
class ClearDisks:
    disks: tuple[Disk, ...]
    name: str = "clear-disks"

    def describe(self) -> str:
        whole = ", ".join(f"{disk} of {gib(disk.size)}" for disk in self.disks)
        return f"Erase everything on {whole}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        # Looked at once more, though a check did: this is the last moment before data is lost.
        for disk in self.disks:
            changed = "; ".join(differences(disk, machine.storage.identify(Path(disk.path))))
            if changed:
                raise StepError(f"{disk.path}: is not the disk that was chosen: {changed}")
        removed = machine.storage.clear([Path(disk.path) for disk in self.disks])
        return {
            "disks": [
                {"path": disk.path, "serial": disk.serial, "wwn": disk.wwn, "size": disk.size}
                for disk in self.disks
            ],
            "removed": list(removed),
        }
