"""Make an LVM volume group and its volumes."""

from __future__ import annotations

from dataclasses import dataclass

from agent.layout.extents import gib
from agent.layout.model import VolumeGroup
from agent.machine import Machine, Progress
from agent.steps.base import Evidence


@dataclass(frozen=True)
class MakeVolumes:
    group: VolumeGroup
    name: str = "make-volumes"

    def describe(self) -> str:
        each = ", ".join(f"{volume.name} {gib(volume.size)}" for volume in self.group.volumes)
        return f"Make the volume group {self.group.name} on {self.group.physical}: {each}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        machine.storage.make_volumes(self.group)
        return {
            "group": self.group.name,
            "physical": str(self.group.physical),
            "volumes": {volume.name: volume.size for volume in self.group.volumes},
            "free": self.group.free,
        }
