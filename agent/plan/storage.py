"""What lies on the disks: the preset and what the plan changes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from agent.plan.catalog import BUILT_IN
from agent.plan.filesystem import SMALLEST, FileSystem, MountPoint, Option, misplaced
from agent.plan.part import Fault, Kind, Part, shown
from agent.plan.preset import Preset, load_preset
from agent.plan.size import Bytes, Percent, Size, render

WHOLE_DISK = "whole-disk"
_VOLUME_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]{0,63}")


def parse_volume_group(text: str) -> str:
    """Return a name that lvm(8) takes for a volume group."""
    if not _VOLUME_GROUP.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a volume group name: letters, digits and _+.-")
    return text


class _NameOrMapping:
    """Says in the JSON Schema that a preset may be named instead of written out."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = [*BUILT_IN, WHOLE_DISK]
        return {"anyOf": [{"enum": names}, {"type": "string"}, handler(core_schema)]}


def _as_written(preset: Preset) -> str | Mapping[str, Any]:
    return preset.name if preset.written is None else preset.written


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

WHOLE = Preset.model_construct(  # type: ignore[call-arg]  # it has no partition
    name=WHOLE_DISK, summary="the image is a whole disk, with partitions of its own", volumes=()
)
"""Stands where a preset would: nothing of ours lies on the disks."""


def _whole_or(value: object) -> object:
    return WHOLE if value == WHOLE_DISK else value


ChosenPreset = Annotated[
    Preset,
    BeforeValidator(_whole_or),
    Kind("name, or a mapping"),
    PlainSerializer(_as_written),
    _NameOrMapping(),
]


BRINGS_ITS_OWN = "a whole-disk image has file systems of its own"


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


class Storage(Part):
    """What lies on the disks.

    Each disk gets an ESP, a boot partition and the rest; over two disks boot and the rest are
    mirrored, and each ESP stands by itself with equal content. The rest carries the encryption, a
    volume group and one volume per mount point. Space that no volume takes stays in the volume
    group.

    The preset `whole-disk` is for images of `kind: disk`, and they for no other: the image is
    written to the disk as it is, or to a mirror of two whole disks. It has no other key beside it,
    and no `encryption` and no `configure`: what lies inside such an image is its maker's.
    """

    later: ClassVar[frozenset[str]] = frozenset({"boot", "data", "esp", "raid"})
    example: ClassVar[str] = """\
preset: stig-rhel9
volumes:
  - {mount: /var/lib/pgsql, grow: true, options: [nodev, nosuid]}
  - {mount: /home, size: 5 GiB}
"""

    preset: ChosenPreset = Field(
        default_factory=lambda: load_preset("plain"),
        description="the set of volumes and mount options to start from: a name in "
        "[presets.md](presets.md), or one of the plan's own",
    )
    volumes: tuple[Volume, ...] = Field((), description="what is changed of the preset or added")
    without: tuple[MountPoint, ...] = Field(
        (),
        description="volumes of the preset that are left out; what belongs there lies on the "
        "volume above, which gets their size too",
    )
    filesystem: FileSystem = Field("xfs", description="file system of the volumes that name none")
    leave: Size | None = Field(
        None, description="stays free in the volume group, for snapshots and for later"
    )
    swap: Size | None = Field(
        None, description="a swap volume, encrypted with the others; without it there is none"
    )
    zram: Size | None = Field(
        None,
        description="swap in compressed memory: its size, or a share of the memory. The image must "
        "have systemd's zram-generator",
    )
    volume_group: Annotated[StrictStr, Kind("name"), AfterValidator(parse_volume_group)] = Field(
        "vg0", description="name of the LVM volume group"
    )

    @property
    def whole(self) -> bool:
        """Whether the image is a whole disk, and nothing is laid out here."""
        return self.preset.name == WHOLE_DISK

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (
            self._nothing_beside(),
            self._mounts_differ(),
            self._shares(),
            self._large_enough(),
            self._new_volumes(),
            self._left_out(),
        )

    def _nothing_beside(self) -> Iterator[Fault]:
        beside = self.model_fields_set - {"preset"} if self.whole else ()
        for key in sorted(beside):
            yield Fault((key,), f"{BRINGS_ITS_OWN}: leave this out, or take another preset")

    def _mounts_differ(self) -> Iterator[Fault]:
        mounts = [volume.mount for volume in self.volumes]
        for number, mount in enumerate(mounts):
            if mount in mounts[:number]:
                yield Fault(("volumes", number, "mount"), f"{mount} is there twice")

    def _shares(self) -> Iterator[Fault]:
        sizes = [*(volume.size for volume in self.volumes), self.leave, self.swap]
        total = sum(size.points for size in sizes if isinstance(size, Percent))
        if total > 100:
            yield Fault(("volumes",), f"the shares add up to {total}%, there are 100%")

    def _large_enough(self) -> Iterator[Fault]:
        for number, volume in enumerate(self.volumes):
            filesystem = volume.filesystem or self.filesystem
            smallest = SMALLEST[filesystem]
            for key in ("size", "max"):
                size = getattr(volume, key)
                if isinstance(size, int) and size < smallest:
                    message = f"{render(size)} is too small: {filesystem} needs {render(smallest)}"
                    yield Fault(("volumes", number, key), message)
        if isinstance(self.swap, int) and self.swap < SMALLEST["swap"]:
            message = f"{render(self.swap)} is too small: take {render(SMALLEST['swap'])} or more"
            yield Fault(("swap",), message)

    def _new_volumes(self) -> Iterator[Fault]:
        for number, volume in enumerate(self.volumes):
            known = self.preset.volume(volume.mount) is not None
            if volume.size is None and not volume.grow and not known:
                message = f"{volume.mount} is not a volume of {self.preset.name}: give size or grow"
                yield Fault(("volumes", number), message)

    def _left_out(self) -> Iterator[Fault]:
        changed = {volume.mount for volume in self.volumes}
        for number, mount in enumerate(self.without):
            volume = self.preset.volume(mount)
            if mount == "/":
                yield Fault(("without", number), "/ cannot be left out")
            elif volume is None or volume.optional:
                message = f"{mount} is not a volume of {self.preset.name}"
                yield Fault(("without", number), message)
            elif mount in changed:
                yield Fault(("without", number), f"{mount} is in volumes too: give one of the two")
            elif mount in self.without[:number]:
                yield Fault(("without", number), f"{mount} is there twice")
