"""What file systems are wanted: the preset, changed volume by volume by the plan.

Pure, and before any disk is known: `agent.layout` turns wishes into extents.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from agent.plan.data import DataArray
from agent.plan.deviation import deviations
from agent.plan.filesystem import SMALLEST
from agent.plan.model import Plan
from agent.plan.preset import Options, Preset, PresetMount, PresetPartition, PresetVolume
from agent.plan.size import Percent
from agent.plan.storage import Storage
from agent.plan.volume import Volume
from agent.plan.wanted import (
    DataWish,
    Grow,
    PartitionWish,
    StorageWish,
    TmpfsWish,
    VolumeWish,
    above,
)

__all__ = ["Grow", "PartitionWish", "StorageWish", "TmpfsWish", "VolumeWish", "merge", "wish"]


def wish(plan: Plan) -> StorageWish:
    """Return what file systems the plan asks for, and how that deviates from its preset."""
    preset = plan.storage.preset
    wishes = StorageWish(
        preset=preset.name,
        volume_group=plan.storage.volume_group,
        volumes=merge(preset, plan.storage),
        tmpfs=tuple(_tmpfs(mount) for mount in preset.tmpfs),
        boot=_partition(preset.boot),
        esp=_partition(preset.esp),
        leave=plan.storage.leave or 0,
        swap=plan.storage.swap,
        zram=plan.storage.zram,
        data=tuple(_data(one, preset, plan.storage) for one in plan.storage.data),
    )
    encrypted = plan.encryption is not None
    return replace(wishes, deviations=tuple(deviations(preset, wishes, encrypted=encrypted)))


def merge(preset: Preset, storage: Storage) -> tuple[VolumeWish, ...]:
    """Return the preset's volumes with the plan's changes and additions, parents first.

    Where the plan lets a volume grow, the one that grows in the preset keeps its size instead. What
    lies on disks of data is not among them.
    """
    elsewhere = {volume.mount for one in storage.data for volume in one.volumes}
    changes = {volume.mount: volume for volume in storage.volumes}
    plan_grows = any(volume.grow for volume in storage.volumes)
    wishes = []
    for volume in _kept(preset, storage):
        if volume.mount in elsewhere:
            continue
        change = changes.pop(volume.mount, None)
        if change is not None or not volume.optional:
            change = change or Volume(mount=volume.mount)
            wishes.append(_changed(volume, change, storage.filesystem, plan_grows))
    wishes += [_added(volume, preset.others, storage.filesystem) for volume in changes.values()]
    return _parents_first(wishes)


def _data(one: DataArray, preset: Preset, storage: Storage) -> DataWish:
    """Return an array of data; what the preset has there too keeps its options and rules."""
    wishes = []
    for volume in one.volumes:
        known = preset.volume(volume.mount)
        if known is None:
            wishes.append(_added(volume, preset.others, storage.filesystem))
        else:
            wishes.append(_changed(known, volume, storage.filesystem, plan_grows=True))
    return DataWish(one.name, one.level, _parents_first(wishes), one.leave or 0)


def _parents_first(wishes: Iterable[VolumeWish]) -> tuple[VolumeWish, ...]:
    return tuple(sorted(wishes, key=lambda volume: volume.mount.strip("/").split("/")))


def _kept(preset: Preset, storage: Storage) -> tuple[PresetVolume, ...]:
    """Return the preset's volumes; those that are left out give size and growth to the above."""
    kept = {v.mount: v for v in preset.volumes if v.mount not in storage.without}
    there = [mount for mount, volume in kept.items() if not volume.optional]
    for mount in storage.without:
        gone = preset.volume(mount)
        assert gone is not None, "checked by Storage"
        heir = kept[above(mount, there)]
        kept[heir.mount] = heir.model_copy(
            update={"size": heir.size + gone.size, "grow": heir.grow or gone.grow}
        )
    return tuple(kept.values())


def _changed(volume: PresetVolume, change: Volume, filesystem: str, plan_grows: bool) -> VolumeWish:
    filesystem = change.filesystem or volume.filesystem or filesystem
    least = max(SMALLEST[filesystem], volume.least.size if volume.least else 0)
    size: int | Percent | Grow
    if change.grow or (volume.grow and change.size is None and not plan_grows):
        size, minimum = Grow(int(change.grow) or 1), max(least, volume.size)
    else:
        size = volume.size if change.size is None else change.size
        minimum = size if isinstance(size, int) else least
    minimum = _bounded(change, minimum, filesystem)
    options = tuple(volume.options) if change.options is None else change.options
    of_size = volume.least.rules if volume.least and minimum >= volume.least.size else ()
    rules = (*volume.rules, *of_size, *_met(volume.options, options))
    return VolumeWish(volume.mount, size, minimum, filesystem, options, rules, change.max)


def _added(volume: Volume, others: Options, filesystem: str) -> VolumeWish:
    filesystem = volume.filesystem or filesystem
    options = tuple(others) if volume.options is None else volume.options
    size = Grow(int(volume.grow)) if volume.size is None else volume.size
    minimum = size if isinstance(size, int) else _bounded(volume, SMALLEST[filesystem], filesystem)
    rules = _met(others, options)
    return VolumeWish(volume.mount, size, minimum, filesystem, options, rules, volume.max)


def _bounded(change: Volume, minimum: int, filesystem: str) -> int:
    """Return what the volume must have: what the plan says, as far as a file system allows."""
    if change.min is not None:
        return max(change.min, SMALLEST[filesystem])
    return min(minimum, change.max) if isinstance(change.max, int) else minimum


def _met(asked: Options, options: Collection[str]) -> tuple[str, ...]:
    return tuple(rule for option, rules in asked.items() if option in options for rule in rules)


def _tmpfs(mount: PresetMount) -> TmpfsWish:
    options = tuple(mount.options)
    return TmpfsWish(mount.mount, options, (*mount.rules, *_met(mount.options, options)))


def _partition(partition: PresetPartition) -> PartitionWish:
    options = tuple(partition.options)
    rules = _met(partition.options, options)
    return PartitionWish(partition.mount, partition.size, partition.filesystem, options, rules)
