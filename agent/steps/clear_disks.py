"""Erase the chosen disks: whatever holds them is closed first, then nothing may be found."""

from __future__ import annotations

from dataclasses import dataclass

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
        removed = machine.storage.clear(self.disks)
        return {
            "disks": [
                {"path": disk.path, "serial": disk.serial, "wwn": disk.wwn, "size": disk.size}
                for disk in self.disks
            ],
            "removed": list(removed),
        }
