"""A disk, or a mirror of two, that an image of a whole disk goes onto as it is.

Nothing is laid out on it but one MiB of our own at its end, for the marker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from agent.errors import Problem
from agent.inventory.model import Disk
from agent.layout.extents import MIB, after_md, gib
from agent.layout.model import Array, DiskLayout, Role
from agent.layout.place import Names


@dataclass(frozen=True)
class Whole:
    """Where the image goes. The disks have no partitions that were chosen here."""

    disks: tuple[DiskLayout, ...]
    arrays: tuple[Array, ...]
    """Empty on a single disk; else the one over both."""
    stamp: UUID
    """PARTUUID of our own entry in the image's table."""
    deviations: tuple[str, ...] = ()

    @property
    def every_disk(self) -> tuple[DiskLayout, ...]:
        return self.disks

    @property
    def device(self) -> Path:
        """The device that is written."""
        return self.arrays[0].path if self.arrays else Path(self.disks[0].disk.path)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.arrays[0].size if self.arrays else self.disks[0].disk.size

    @property
    def sector_size(self) -> int:
        """Its logical sector, in bytes: an array has the largest of its members."""
        return max(laid.disk.sector_size for laid in self.disks)


def place_whole(disks: Sequence[Disk], names: Names) -> Whole | list[Problem]:
    """Take the disks as they are; two become a RAID1 whose metadata lies at their ends."""
    sectors = {disk.sector_size for disk in disks}
    if len(sectors) > 1:
        sizes = " and ".join(f"{disk} {disk.sector_size}" for disk in disks)
        return [Problem("disks", f"have sectors of different sizes: {sizes} bytes")]
    arrays = (_array(disks, names),) if len(disks) > 1 else ()
    laid = tuple(DiskLayout(disk, names.uuid(f"disk{n}"), ()) for n, disk in enumerate(disks))
    return Whole(laid, arrays, names.uuid("stamp"))


def _array(disks: Sequence[Disk], names: Names) -> Array:
    # Metadata 1.0 lies at the end, so firmware sees the image on either disk alone.
    return Array(
        Role.IMAGE,
        names.uuid("md/image"),
        "1.0",
        bitmap=True,
        members=tuple(Path(disk.path) for disk in disks),
        size=after_md(min(disk.size for disk in disks) // MIB * MIB),
    )


def picture(whole: Whole) -> Iterator[str]:
    """Yield the lines of the layout for people."""
    for laid in whole.disks:
        yield f"disk {laid.disk}  {gib(laid.disk.size)}"
    for array in whole.arrays:
        # One that does not writes to one of the disks alone, and nothing says so.
        yield (
            f"mirror {array.path}  RAID1 of {len(array.members)}, metadata {array.metadata}; "
            "the image itself must assemble it"
        )
    yield f"whole-disk image on {whole.device}  {gib(whole.size)}, as it is"


def plain(whole: Whole) -> dict[str, Any]:
    """Return the layout as JSON-able data; sizes are bytes."""
    return {
        "disks": [
            {
                "path": laid.disk.path,
                "serial": laid.disk.serial,
                "wwn": laid.disk.wwn,
                "model": laid.disk.model,
                "size": laid.disk.size,
                "lost": [content.model_dump(mode="json") for content in laid.disk.content],
            }
            for laid in whole.disks
        ],
        "arrays": [
            {
                "name": array.name,
                "uuid": str(array.uuid),
                "metadata": array.metadata,
                "bitmap": array.bitmap,
                "members": [str(member) for member in array.members],
            }
            for array in whole.arrays
        ],
        "image": {
            "device": str(whole.device),
            "size": whole.size,
            "stamp": str(whole.stamp),
        },
    }
