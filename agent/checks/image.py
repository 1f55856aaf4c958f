"""Does the image fit the volumes it is going to be laid over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Problem
from agent.layout.extents import MIB, gib
from agent.layout.model import Layout
from agent.machine import Machine
from agent.payload.described import Described
from agent.payload.fetch import Source

OWN = {"xfs": 96 * MIB, "ext4": 64 * MIB, "btrfs": 256 * MIB}
"""What a small file system keeps for itself: log or journal, and its first metadata."""
SHARE = 0.93
"""Of the rest, what files may take: inode tables, the blocks ext4 reserves, fragments."""
BYTES_PER_INODE = 16384
"""mke2fs's default for ext4; xfs makes inodes as it needs them."""


def room(kind: str, size: int) -> int:
    """Return the bytes files may take on a fresh file system of `size` bytes, a lower bound."""
    return max(0, int((size - OWN.get(kind, 0)) * SHARE))


@dataclass(frozen=True)
class PayloadThere:
    """At least one mirror has the payload that the manifest describes."""

    manifest: Described
    source: Source
    where: str = "image.manifest"

    def describe(self) -> str:
        return f"the payload of {self.manifest.name} can be fetched"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        for problem in machine.images.problems(self.manifest, self.source):
            yield Problem(self.where, problem.message)


@dataclass(frozen=True)
class ImageFits:
    """Every volume has room for what the image puts there, by the manifest's own count."""

    manifest: Described
    layout: Layout
    boot_size: int

    def describe(self) -> str:
        return f"the image {self.manifest.name} fits its volumes"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        tree = self.manifest.tree
        if tree is None:
            yield Problem(
                "image.manifest",
                f"{self.manifest.name} is an image of a whole disk: write storage: "
                "{preset: whole-disk}, and leave out volumes, encryption and configure",
            )
            return
        volumes = {
            volume.filesystem.mount: (volume.size, volume.filesystem.kind)
            for group in self.layout.every_group
            for volume in group.volumes
        }
        volumes["/boot"] = (self.boot_size, self.layout.boot.kind)
        for mount, need in tree.needs(tuple(volumes)).items():
            size, kind = volumes[mount]
            usable = room(kind, size)
            if need.bytes > usable:
                yield Problem(
                    mount,
                    f"the image {self.manifest.name} needs {gib(need.bytes)} there, the volume has "
                    f"{gib(size)} ({gib(usable)} for files)",
                )
            elif kind == "ext4" and need.inodes > size // BYTES_PER_INODE:
                yield Problem(
                    mount,
                    f"the image {self.manifest.name} needs {need.inodes} inodes there, the volume "
                    f"has {size // BYTES_PER_INODE}",
                )
        for one, other in tree.parted(tuple(volumes)):
            # A kernel in /boot is laid as a copy (`agent.payload.apart`); data may be too much.
            if "boot" in (one.split("/")[1], other.split("/")[1]):
                continue
            yield Problem(
                "storage.volumes",
                f"the image {self.manifest.name} has a file linked in {one} and in {other}, which "
                "must lie on one volume",
            )
