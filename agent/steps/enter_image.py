"""Tell the firmware about the image that was written: the loader of its EFI system partition."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from agent.errors import StepError
from agent.layout.whole import Whole
from agent.machine import Machine, Progress
from agent.payload.gpt import Partition
from agent.steps.base import Evidence
from agent.steps.boot_entries import label, remove_stale

# UEFI 2.10, table 3-2.
LOADERS = {"x86_64": "BOOTX64.EFI", "aarch64": "BOOTAA64.EFI", "riscv64": "BOOTRISCV64.EFI"}


@dataclass(frozen=True)
class EnterImage:
    r"""One entry for \EFI\BOOT, which also starts the other disk of a mirror.

    Both have the image's PARTUUIDs, and firmware looks for those. Where it cannot be made the
    disks are erased again: a step that failed leaves nothing that boots.
    """

    whole: Whole
    system: str
    esp: Partition | None
    architecture: str = field(default_factory=platform.machine)

    name: ClassVar[str] = "enter-image"

    def describe(self) -> str:
        if self.esp is None:
            return "Leave the boot entries alone: the image has no EFI system partition"
        return f"Make a boot entry for partition {self.esp.number} of {self.whole.device}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        disks = [laid.disk for laid in self.whole.disks]
        try:
            ours: set[UUID] = {self.esp.partuuid} if self.esp else set()
            removed = remove_stale(machine, ours, disks)
            entry = self._create(machine) if self.esp else None
        except BaseException:
            machine.storage.release()
            machine.storage.clear(disks)
            raise
        return {
            "entries_removed": list(removed),
            "boot_entry": entry,
            "esp": str(self.esp.partuuid) if self.esp else None,
        }

    def _create(self, machine: Machine) -> str:
        assert self.esp is not None
        loader = LOADERS.get(self.architecture)
        if loader is None:
            raise StepError(f"{self.architecture}: has no name for a loader that is known here")
        disk = self.whole.disks[0].disk
        named = label(self.system, 1, disk)
        path = f"\\EFI\\BOOT\\{loader}"
        machine.firmware.create(named, disk=Path(disk.path), partition=self.esp.number, loader=path)
        return named
