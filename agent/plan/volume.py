"""A volume of the plan: where it is mounted, how large it is, how it is mounted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator, StrictBool, StrictInt, WithJsonSchema

from agent.plan.filesystem import SMALLEST, FileSystem, MountPoint, Option, misplaced
from agent.plan.part import Fault, Kind, Part, shown
from agent.plan.size import Bytes, Percent, Size, render


def parse_weight(value: object) -> bool | int:
    """Return true, false or the weight of a growing volume."""
    if isinstance(value, int) and (isinstance(value, bool) or 1 <= value <= 100):
        return value
    raise ValueError(f"{shown(value)} is neither true nor false nor a weight from 1 to 100")


Weight = Annotated[
    StrictBool | StrictInt,
    PlainValidator(parse_weight),
    WithJsonSchema(
        {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 100}]}
    ),
]


class Volume(Part):
    """A volume that is added to the preset's, or what is changed of one that it has.

    Of a volume that the preset has, only what is given changes; naming one that the preset makes
    only on demand is enough to have it. A volume that the preset does not have needs `size` or
    `grow`; its options are those that the preset has for other volumes.
    """

    example: ClassVar[str] = """\
mount: /var/lib/pgsql
size: 40%
filesystem: xfs
options: [nodev, nosuid]
"""

    mount: MountPoint = Field(description="where it is mounted")
    size: Size | None = Field(
        None, description="bytes, or a share of the space that all volumes have together"
    )
    grow: Annotated[Weight, Kind("`true`, `false`, or a weight from 1 to 100")] = Field(
        False,
        description="takes what the others leave; where several do, in proportion to their "
        "weights, of which `true` is 1. The volume that grows in the preset then keeps its size",
    )
    min: Bytes | None = Field(
        None, description="what it has at least, where it grows or has a share"
    )
    max: Size | None = Field(None, description="what it has at most, where it grows or has a share")
    filesystem: FileSystem | None = Field(
        None, description="instead of the file system that `storage` names"
    )
    options: tuple[Option, ...] | None = Field(
        None,
        description="mount options, instead of all that the preset gives it. A rule of the preset "
        "that is broken by this is named in preview and report",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._place(), self._one_size(), self._bounds(), self._options_agree()

    def _place(self) -> Iterator[Fault]:
        yield from misplaced(self.mount)

    def _one_size(self) -> Iterator[Fault]:
        if self.size is not None and self.grow:
            yield Fault(("grow",), "the volume has a size too: give one of the two")

    def _bounds(self) -> Iterator[Fault]:
        for key in ("min", "max"):
            if getattr(self, key) is not None and isinstance(self.size, int):
                yield Fault(
                    (key,), f"size is {render(self.size)} already: leave out one of the two"
                )
        if self.min is not None and isinstance(self.max, int) and self.max < self.min:
            yield Fault(("max",), f"{render(self.max)} is less than min, {render(self.min)}")

    def _options_agree(self) -> Iterator[Fault]:
        seen: set[str] = set()
        for number, option in enumerate(self.options or ()):
            opposite = option[2:] if option.startswith("no") else f"no{option}"
            if option in seen:
                yield Fault(("options", number), f"{option} is there twice")
            if opposite in seen:
                yield Fault(("options", number), f"{option} contradicts {opposite}")
            seen.add(option)


def mounted_once(volumes: Sequence[Volume]) -> Iterator[Fault]:
    """Yield the volumes of a list whose mount point is in it already."""
    mounts = [volume.mount for volume in volumes]
    for number, mount in enumerate(mounts):
        if mount in mounts[:number]:
            yield Fault(("volumes", number, "mount"), f"{mount} is there twice")


def add_up(sizes: Sequence[Size | None]) -> Iterator[Fault]:
    """Yield that the shares among these sizes are more than the whole."""
    total = sum(size.points for size in sizes if isinstance(size, Percent))
    if total > 100:
        yield Fault(("volumes",), f"the shares add up to {total}%, there are 100%")


def large_enough(volumes: Sequence[Volume], default: FileSystem) -> Iterator[Fault]:
    """Yield the volumes that are smaller than their file systems can be."""
    for number, volume in enumerate(volumes):
        filesystem = volume.filesystem or default
        smallest = SMALLEST[filesystem]
        for key in ("size", "max"):
            size = getattr(volume, key)
            if isinstance(size, int) and size < smallest:
                message = f"{render(size)} is too small: {filesystem} needs {render(smallest)}"
                yield Fault(("volumes", number, key), message)
