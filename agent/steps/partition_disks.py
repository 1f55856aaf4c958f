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
        alike: dict[str, list[str]] = {}
        for layout in self.disks:
            cuts = ", ".join(f"{p.role.value} {gib(p.size)}" for p in layout.partitions)
            alike.setdefault(cuts, []).append(layout.disk.path)
        each = (f"{' and '.join(where)}: {cuts}" for cuts, where in alike.items())
        return f"Write a GPT to {'; to '.join(each)}"

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
