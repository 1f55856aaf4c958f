"""Our own MiB on a disk that carries somebody's image: what an installation leaves there, and when.

A whole-disk image leaves no file system of ours. Its table gets one more entry, the last, for one
MiB in front of the device's end; in it lies the marker of a finished installation. While the image
is being written there is no table, and the MiB says so: what a failed run left is known as ours.
Why there: docs/decisions/0012-marker-of-a-disk-image.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from agent.payload.gpt import Partition

MIB = 1 << 20
NAME = "bedplate-image"
"""The entry's GPT name, and the name of an array over whole disks."""
TYPE = UUID("ad520ce0-da46-40ad-b196-bb071cd2c951")
"""Chosen by chance for this purpose; no other program knows it, so none mounts or grows it."""
ROOM = 4096
"""Bytes that the content may have."""
UNDER_WAY = b"bedplate: an image is being written to this disk, it is not complete\n"
BEHIND = 3 * MIB
"""Bytes that a device must have more than the image: the stamp, the backup table, and rounding."""


@dataclass(frozen=True)
class Stamp:
    """What to leave on a device: `content` gives the marker's text, when all else is proven."""

    partuuid: UUID
    content: Callable[[], bytes]

    def page(self) -> bytes:
        """Return what the whole MiB shall hold."""
        content = self.content()
        assert len(content) <= ROOM, "a marker larger than its place"
        return content.ljust(MIB, b"\0")

    def entry(self, size: int) -> Partition:
        """Return the entry for a device of `size` bytes."""
        return Partition(0, TYPE, self.partuuid, place(size), MIB, NAME)


def place(size: int) -> int:
    """Return where the stamp begins on a device of `size` bytes: a whole MiB, one from the end.

    What is behind it holds any backup table.
    """
    return size // MIB * MIB - 2 * MIB
