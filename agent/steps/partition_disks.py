"""Write the partition tables."""

from __future__ import annotations

from dataclasses import dataclass

from agent.layout.extents import gib
from agent.layout.model import DiskLayout
from agent.machine import Machine, Progress
from agent.steps.base import Evidence


@dataclass(frozen=True)
class PartitionDisks:
    disks: tuple[DiskLayout, ...]
    name: str = "partition-disks"

    def describe(self) -> str:
        cuts = ", ".join(f"{p.role.value} {gib(p.size)}" for p in self.disks[0].partitions)
        where = " and ".join(layout.disk.path for layout in self.disks)
        return f"Write a GPT to {where}: {cuts}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        machine.storage.partition(self.disks)
        return {
            "tables": [
                {
                    "disk": layout.disk.path,
                    "serial": layout.disk.serial,
                    "guid": str(layout.guid),
                    "partitions": {p.role.value: str(p.partuuid) for p in layout.partitions},
                }
                for layout in self.disks
            ]
        }
