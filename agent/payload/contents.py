"""What lies in a root file system, as the manifest tells it.

Written when an image is packed and read before anything is erased: is there a kernel, is there
Clevis, does every volume hold its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.payload.tar import Attribute

DEPTH = 3
"""Levels of directories whose content is counted."""
COUNTED_FROM = 64 << 10
"""Bytes in a directory from which it is named; what is not named holds less."""
MAX_SIZE = 1 << 60

Size = Annotated[int, Field(ge=0, le=MAX_SIZE)]
Text = Annotated[str, StringConstraints(max_length=256)]
TreePath = Annotated[str, StringConstraints(pattern=r"^/", max_length=4096)]


class Part(BaseModel):
    """A frozen piece of the manifest that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Kernel(Part):
    version: Text
    image: TreePath
    initrd: TreePath | None = None


class Need(Part):
    """Room for a directory and all below it: bytes in blocks of 4 KiB, and inodes."""

    bytes: Size
    inodes: Size


class Tree(Part):
    """The root file system in a `kind: tree` image.

    `directories` are those up to `DEPTH` levels down with at least `COUNTED_FROM` bytes in them;
    each counts all that is below it. `programs` maps the words of `agent.payload.survey` to where
    each was found. `links` are pairs of directories (`DEPTH` levels down) that share a hard-linked
    file and so must lie on one volume. `tail` is the number of the first chunk that holds the hard
    links and then the directories; all else lies before it and may be unpacked in any order. It is
    None where the order of the members matters. `attributes` are those that some member has; None
    says nothing. `parents` says that each directory that something lies in has a member in the
    tail.
    """

    members: Size
    directories: dict[TreePath, Need]
    kernels: tuple[Kernel, ...] = ()
    programs: dict[Text, TreePath] = Field(default_factory=dict)
    architecture: Text | None = None
    links: tuple[tuple[TreePath, TreePath], ...] = ()
    tail: Size | None = None
    attributes: tuple[Attribute, ...] | None = None
    parents: Literal[True] | None = None

    def needs(self, mounts: Sequence[str]) -> dict[str, Need]:
        """Return what each volume must hold when these are the mount points, `/` among them.

        A mount point deeper than what was counted gets the number of the directory above it, and
        the volume below it keeps that number too: rather too much than too little.
        """
        return {mount: self._need(mount, mounts) for mount in mounts}

    def parted(self, mounts: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Return the pairs of `links` that these mount points would put on different volumes."""
        return tuple(
            (one, other)
            for one, other in self.links
            if _volume(one, mounts) != _volume(other, mounts)
        )

    def _need(self, mount: str, mounts: Sequence[str]) -> Need:
        counted = str(PurePosixPath(*PurePosixPath(mount).parts[: DEPTH + 1]))
        nothing = Need(bytes=0, inodes=0)
        need = self.directories.get(counted, nothing)
        others = [other for other in mounts if other != mount]
        for other in others:
            if other != "/" and _volume(other, [m for m in mounts if m != other]) == mount:
                below = self.directories.get(other, nothing)
                need = Need(
                    bytes=max(0, need.bytes - below.bytes),
                    inodes=max(0, need.inodes - below.inodes),
                )
        return need


def _volume(path: str, mounts: Sequence[str]) -> str:
    """Return the mount point that holds `path`."""
    holders = [mount for mount in mounts if PurePosixPath(path).is_relative_to(mount)]
    return max(holders, key=len, default="/")
