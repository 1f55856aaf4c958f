"""What file systems are wanted: the preset, changed volume by volume by the plan.

Pure, and before any disk is known: `agent.layout` turns wishes into extents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.plan.model import Plan
from agent.plan.preset import (
    Options,
    Preset,
    PresetMount,
    PresetPartition,
    PresetVolume,
    load_preset,
)
from agent.plan.size import Percent, render
from agent.plan.storage import SMALLEST, FileSystem, Storage, Volume

UNCHANGED = Volume(mount="/")  # says nothing about a volume of the preset


@dataclass(frozen=True)
class Grow:
    """Take what the others leave, in proportion to the weights of all that grow."""

    weight: int = 1


@dataclass(frozen=True)
class VolumeWish:
    """A volume that is wanted.

    `size` is in bytes, a share of the space of all volumes, or the rest; `minimum` is what it must
    have in bytes whatever comes of `size`. `rules` are those that it meets.
    """

    mount: str
    size: int | Percent | Grow
    minimum: int
    filesystem: FileSystem
    options: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()


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
class Deviation:
    """A rule of the preset that the plan breaks, where, and by what."""

    preset: str
    rule: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"deviates from {self.preset}: {self.rule} ({self.where}: {self.why})"


@dataclass(frozen=True)
class StorageWish:
    """All that is wanted on the disks; `volumes` are ordered so that parents come first."""

    preset: str
    volume_group: str
    volumes: tuple[VolumeWish, ...]
    tmpfs: tuple[TmpfsWish, ...]
    boot: PartitionWish
    esp: PartitionWish
    deviations: tuple[Deviation, ...]


def wish(plan: Plan) -> StorageWish:
    """Return what file systems the plan asks for, and how that deviates from its preset."""
    preset = load_preset(plan.storage.preset)
    return StorageWish(
        preset=preset.name,
        volume_group=plan.storage.volume_group,
        volumes=merge(preset, plan.storage),
        tmpfs=tuple(_tmpfs(mount) for mount in preset.tmpfs),
        boot=_partition(preset.boot),
        esp=_partition(preset.esp),
        deviations=tuple(deviations(preset, plan.storage, encrypted=plan.encryption is not None)),
    )


def merge(preset: Preset, storage: Storage) -> tuple[VolumeWish, ...]:
    """Return the preset's volumes with the plan's changes and additions, parents first.

    Where the plan lets a volume grow, the one that grows in the preset keeps its size instead.
    """
    changes = {volume.mount: volume for volume in storage.volumes}
    plan_grows = any(volume.grow for volume in storage.volumes)
    wishes = [
        _changed(volume, changes.pop(volume.mount, UNCHANGED), storage.filesystem, plan_grows)
        for volume in preset.volumes
    ]
    wishes += [_added(volume, preset.others, storage.filesystem) for volume in changes.values()]
    return tuple(sorted(wishes, key=lambda volume: volume.mount.strip("/").split("/")))


def deviations(preset: Preset, storage: Storage, *, encrypted: bool) -> Iterator[Deviation]:
    """Yield every rule of the preset that the plan breaks, each once per place."""
    if not encrypted:
        for rule in preset.encryption:
            yield Deviation(preset.name, rule, "encryption", "the disks are not encrypted")
    for change in storage.volumes:
        volume = preset.volume(change.mount)
        asked = volume.options if volume else preset.others
        if change.options is not None:
            for option, rules in asked.items():
                if option not in change.options:
                    for rule in rules:
                        yield Deviation(preset.name, rule, change.mount, f"without {option}")
        least = volume.least if volume else None
        if least and isinstance(change.size, int) and change.size < least.size:
            for rule in least.rules:
                why = f"{render(change.size)}, less than {render(least.size)}"
                yield Deviation(preset.name, rule, change.mount, why)


def _changed(
    volume: PresetVolume, change: Volume, filesystem: FileSystem, plan_grows: bool
) -> VolumeWish:
    filesystem = change.filesystem or volume.filesystem or filesystem
    least = max(SMALLEST[filesystem], volume.least.size if volume.least else 0)
    size: int | Percent | Grow
    if change.grow or (volume.grow and change.size is None and not plan_grows):
        size, minimum = Grow(), max(least, volume.size)
    else:
        size = volume.size if change.size is None else change.size
        minimum = size if isinstance(size, int) else least
    options = tuple(volume.options) if change.options is None else change.options
    of_size = volume.least.rules if volume.least and minimum >= volume.least.size else ()
    rules = (*volume.rules, *of_size, *_met(volume.options, options))
    return VolumeWish(volume.mount, size, minimum, filesystem, options, rules)


def _added(volume: Volume, others: Options, filesystem: FileSystem) -> VolumeWish:
    filesystem = volume.filesystem or filesystem
    options = tuple(others) if volume.options is None else volume.options
    size = Grow() if volume.size is None else volume.size
    minimum = size if isinstance(size, int) else SMALLEST[filesystem]
    return VolumeWish(volume.mount, size, minimum, filesystem, options, _met(others, options))


def _met(asked: Options, options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(rule for option, rules in asked.items() if option in options for rule in rules)


def _tmpfs(mount: PresetMount) -> TmpfsWish:
    options = tuple(mount.options)
    return TmpfsWish(mount.mount, options, _met(mount.options, options))


def _partition(partition: PresetPartition) -> PartitionWish:
    options = tuple(partition.options)
    rules = _met(partition.options, options)
    return PartitionWish(partition.mount, partition.size, partition.filesystem, options, rules)
