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
    StrictStr,
)
from pydantic_core import CoreSchema

from agent.plan.catalog import BUILT_IN
from agent.plan.data import DataArray
from agent.plan.filesystem import SMALLEST, FileSystem, MountPoint
from agent.plan.part import Fault, Kind, Part, shown
from agent.plan.preset import Preset, load_preset
from agent.plan.size import Size, render
from agent.plan.volume import Volume, add_up, large_enough, mounted_once
from agent.plan.wanted import above

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


class Storage(Part):
    """What lies on the disks.

    Each disk gets an ESP, a boot partition and the rest; over two disks boot and the rest are
    mirrored, and each ESP stands by itself with equal content. The rest carries the encryption, a
    volume group and one volume per mount point. Space that no volume takes stays in the volume
    group. Further disks are for `data`.

    The preset `whole-disk` is for images of `kind: disk`, and they for no other: the image is
    written to the disk as it is, or to a mirror of two whole disks, which it must assemble itself
    when it starts. It has no other key beside it, and no `encryption` and no `configure`: what lies
    inside such an image is its maker's.
    """

    later: ClassVar[frozenset[str]] = frozenset({"boot", "esp", "raid"})
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
    data: tuple[DataArray, ...] = Field(
        (), description="further disks, for volumes that the system starts without", max_length=16
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
            self._arrays_differ(),
            self._on_one_place(),
            self._above_data(),
        )

    def _nothing_beside(self) -> Iterator[Fault]:
        beside = self.model_fields_set - {"preset"} if self.whole else ()
        for key in sorted(beside):
            yield Fault((key,), f"{BRINGS_ITS_OWN}: leave this out, or take another preset")

    def _mounts_differ(self) -> Iterator[Fault]:
        yield from mounted_once(self.volumes)

    def _shares(self) -> Iterator[Fault]:
        yield from add_up([*(volume.size for volume in self.volumes), self.leave, self.swap])

    def _large_enough(self) -> Iterator[Fault]:
        yield from large_enough(self.volumes, self.filesystem)
        for number, one in enumerate(self.data):
            for path, message in large_enough(one.volumes, self.filesystem):
                yield Fault(("data", number, *path), message)
        if isinstance(self.swap, int) and self.swap < SMALLEST["swap"]:
            message = f"{render(self.swap)} is too small: take {render(SMALLEST['swap'])} or more"
            yield Fault(("swap",), message)

    def _new_volumes(self) -> Iterator[Fault]:
        for number, volume in enumerate(self.volumes):
            known = self.preset.volume(volume.mount) is not None
            if volume.size is None and not volume.grow and not known:
                message = f"{volume.mount} is not a volume of {self.preset.name}: give size or grow"
                yield Fault(("volumes", number), message)
        for at, one in enumerate(self.data):
            for number, volume in enumerate(one.volumes):
                if volume.size is None and not volume.grow:
                    message = f"{volume.mount} has no size: give size or grow"
                    yield Fault(("data", at, "volumes", number), message)

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

    def _arrays_differ(self) -> Iterator[Fault]:
        names = [one.name for one in self.data]
        for number, name in enumerate(names):
            if name in names[:number]:
                yield Fault(("data", number, "name"), f"{name} is there twice")

    def _on_one_place(self) -> Iterator[Fault]:
        """Yield the volumes of data that are on other disks as well, or left out at once."""
        elsewhere = {volume.mount: "storage.volumes" for volume in self.volumes}
        elsewhere |= dict.fromkeys(self.without, "storage.without")
        for at, one in enumerate(self.data):
            for number, volume in enumerate(one.volumes):
                if volume.mount in elsewhere:
                    message = f"{volume.mount} is in {elsewhere[volume.mount]} too: give one"
                    yield Fault(("data", at, "volumes", number, "mount"), message)
            elsewhere |= {v.mount: f"storage.data[{at}].volumes" for v in one.volumes}

    def _above_data(self) -> Iterator[Fault]:
        """Yield the volumes of the system that would hang on one of data, and so the boot."""
        data = [volume.mount for one in self.data for volume in one.volumes]
        for number, volume in enumerate(self.volumes):
            if (place := above(volume.mount, data)) != "/" and volume.mount not in data:
                message = f"{volume.mount} would lie on {place}, which is on disks of data"
                yield Fault(("volumes", number, "mount"), f"{message}: put it there too")
