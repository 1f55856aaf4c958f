"""Have the disks forget what they held, each by its own means, before anything new is written."""

from __future__ import annotations

from dataclasses import dataclass

from agent.inventory.erasure import Way
from agent.inventory.model import Disk
from agent.machine import Machine, Progress
from agent.steps.base import Evidence


@dataclass(frozen=True)
class SecureErase:
    """`ways` are chosen by what the disks said before the first write, one for each."""

    disks: tuple[Disk, ...]
    ways: tuple[Way, ...]
    name: str = "secure-erase"

    def describe(self) -> str:
        each = ", ".join(
            f"{disk} by {way.method} ({way.detail})"
            for disk, way in zip(self.disks, self.ways, strict=True)
        )
        return f"Make the disks forget everything: {each}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        for number, (disk, way) in enumerate(zip(self.disks, self.ways, strict=True), start=1):
            machine.storage.secure_erase(disk, way)
            progress(number, len(self.disks))
        return {
            "disks": [
                {"path": disk.path, "serial": disk.serial, "by": way.method, "detail": way.detail}
                for disk, way in zip(self.disks, self.ways, strict=True)
            ]
        }
