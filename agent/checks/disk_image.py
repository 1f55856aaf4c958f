"""Does an image of a whole disk fit the disk, sector by sector, and can it carry the marker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import ImageError, Problem
from agent.layout.extents import gib
from agent.layout.whole import Whole
from agent.machine import Machine
from agent.payload import gpt
from agent.payload.described import Described
from agent.payload.disk import faults
from agent.payload.fetch import Source
from agent.payload.manifest import Manifest
from agent.payload.stamp import place

WHERE = "image.manifest"


@dataclass(frozen=True)
class DiskImageFits:
    """The table in the image's first MiB, which is fetched for it, and its size."""

    image: Described
    source: Source
    whole: Whole

    def describe(self) -> str:
        return f"the image {self.image.name} fits {self.whole.device}"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        if not isinstance(self.image, Manifest) or self.image.kind != "disk":
            yield Problem(
                WHERE,
                f"{self.image.name} is a tree of files; storage.preset whole-disk needs an image "
                "of a whole disk: take another preset",
            )
            return
        for fault in faults(self.image):
            yield Problem(WHERE, f"{self.image.name}: {fault}")
        room = place(self.whole.size)
        if self.image.size > room:
            yield Problem(
                "disks",
                f"{self.whole.device} has room for {room} bytes ({gib(room)}) in front of the "
                f"marker, the image {self.image.name} has {self.image.size}",
            )
        try:
            table = gpt.parse(machine.images.head(self.image, self.source))
        except (gpt.NoTable, ImageError) as error:
            yield Problem(WHERE, f"{self.image.name}: {error}")
        else:
            yield from self._of_table(table)

    def _of_table(self, table: gpt.Table) -> Iterator[Problem]:
        name, sector = self.image.name, self.whole.sector_size
        if table.sector != sector:
            yield Problem(
                WHERE,
                f"the partition table of {name} counts sectors of {table.sector} bytes, those of "
                f"{self.whole.device} have {sector}: it would be read wrong",
            )
        if table.full:
            yield Problem(
                WHERE,
                f"the partition table of {name} has no free entry for the marker, all "
                f"{table.entry_count} are taken",
            )
        if table.end > place(self.whole.size):
            yield Problem(
                "disks",
                f"the last partition of {name} ends at byte {table.end}, {self.whole.device} has "
                f"room for {place(self.whole.size)}",
            )
