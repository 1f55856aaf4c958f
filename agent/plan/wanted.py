"""What is wanted on the disks, before any disk is known: volumes, partitions, memory file systems.

`agent.plan.wish` makes these of a plan, `agent.layout` turns them into extents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.plan.size import Percent


@dataclass(frozen=True)
class Grow:
    """Take what the others leave, in proportion to the weights of all that grow."""

    weight: int = 1


@dataclass(frozen=True)
class VolumeWish:
    """A volume that is wanted.

    `size` is in bytes, a share of the space of all volumes, or the rest; `minimum` is what it must
    have in bytes whatever comes of `size`, `maximum` bounds it from above unless that is less.
    `rules` are those that it meets.
    """

    mount: str
    size: int | Percent | Grow
    minimum: int
    filesystem: str
    options: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    maximum: int | Percent | None = None


@dataclass(frozen=True)
class TmpfsWish:
    """A tmpfs that fstab must name."""

    mount: str
    options: tuple[str, ...]
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartitionWish:
    """/boot or the ESP; `size` in bytes."""

    mount: str
    size: int
    filesystem: str
    options: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataWish:
    """An array of further disks with volumes of its own; `level` as in `agent.plan.data`."""

    name: str
    level: str
    volumes: tuple[VolumeWish, ...]
    leave: int | Percent = 0
    """What stays free in its volume group."""


@dataclass(frozen=True)
class StorageWish:
    """All that is wanted on the disks; `volumes` are ordered so that parents come first."""

    preset: str
    volume_group: str
    volumes: tuple[VolumeWish, ...]
    tmpfs: tuple[TmpfsWish, ...]
    boot: PartitionWish
    esp: PartitionWish
    leave: int | Percent = 0
    """What stays free in the volume group."""
    swap: int | Percent | None = None
    zram: int | Percent | None = None
    """Swap in compressed memory: bytes, or a share of the memory."""
    data: tuple[DataWish, ...] = ()
    deviations: tuple[str, ...] = ()
    """`deviates from PRESET: RULE (where: why)`, each once."""

    @property
    def every_volume(self) -> tuple[VolumeWish, ...]:
        """The system's volumes, then those on disks of data."""
        return (*self.volumes, *(volume for one in self.data for volume in one.volumes))


def above(mount: str, mounts: Iterable[str]) -> str:
    """Return the volume that what belongs at `mount` lies on; `/` at the latest."""
    under = [one for one in mounts if one == "/" or f"{mount}/".startswith(f"{one}/")]
    return max(under, key=len, default="/")
