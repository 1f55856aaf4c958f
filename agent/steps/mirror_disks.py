"""Create the mirrors, and hold their resync while the disks are needed for the image."""

from __future__ import annotations

from dataclasses import dataclass

from agent.layout.extents import gib
from agent.layout.model import Array
from agent.machine import Machine, Progress
from agent.steps.base import Evidence


@dataclass(frozen=True)
class MirrorDisks:
    arrays: tuple[Array, ...]
    name: str = "mirror-disks"

    def describe(self) -> str:
        alike: dict[tuple[str, int], list[str]] = {}
        for array in self.arrays:
            told = f"{array.name} ({gib(array.size)}, metadata {array.metadata})"
            alike.setdefault((array.level, len(array.members)), []).append(told)
        verb = {"raid1": "mirror", "raid10": "stripe and mirror"}
        line = "; ".join(
            f"{verb[level]} {', '.join(told)} over {count} disks"
            for (level, count), told in alike.items()
        )
        return line[:1].upper() + line[1:]

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        syncing: list[str] = []
        for number, array in enumerate(self.arrays, start=1):
            # One by one, so that the first does not resynchronise while the second is made.
            syncing += machine.storage.mirror([array])
            machine.kernel.hold_resync()
            progress(number, len(self.arrays))
        return {
            "arrays": [
                {
                    "name": array.name,
                    "uuid": str(array.uuid),
                    "level": array.level,
                    "metadata": array.metadata,
                    "members": [str(member) for member in array.members],
                    "size": array.size,
                    "must_resync": array.name in syncing,
                }
                for array in self.arrays
            ]
        }
