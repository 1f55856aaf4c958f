"""Lay out disks of data: one partition on each, an array over them, LUKS, a volume group. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from agent.errors import Problem
from agent.inventory.model import Disk
from agent.layout.extents import GIB, MIB, after_luks, after_md, gib, usable
from agent.layout.lvm import name_problems
from agent.layout.model import (
    TYPE_LUKS,
    TYPE_LVM,
    TYPE_RAID,
    Array,
    DataLayout,
    DiskLayout,
    Luks,
    Partition,
    Role,
)
from agent.layout.place import Names, fill
from agent.plan.wanted import DataWish

SMALLEST = GIB
"""Bytes of the partition on each disk: less is a mistake, such as the wrong disk."""


def place_data(
    disks: Sequence[Disk], wish: DataWish, group: str, names: Names, *, encrypted: bool
) -> DataLayout | list[Problem]:
    """Lay one array of data out; return problems instead when it does not fit.

    Problems say where by paths below the array's own (`volumes`). The group is called after the
    system's (`group`) and the array, because LVM makes directories of groups in /dev.
    """
    smallest = min(disks, key=lambda disk: disk.size)
    size = usable(smallest)
    if size < SMALLEST:
        need = gib(SMALLEST + 2 * MIB)
        return [Problem("where", f"{smallest} has {gib(smallest.size)}, data needs {need}")]
    group = f"{group}_{wish.name}"
    problems = list(name_problems(group, [volume.mount for volume in wish.volumes]))
    kind = _type(encrypted=encrypted, array=len(disks) > 1)
    placed = tuple(
        _disk(disk, f"data/{wish.name}/disk{index}", size, names, kind)
        for index, disk in enumerate(disks)
    )
    array = _array(placed, wish, names) if len(disks) > 1 else None
    below = placed[0].partition(Role.DATA).path if array is None else array.path
    room = size if array is None else array.size
    luks = None
    if encrypted:
        mapping = f"bedplate-{wish.name}"
        luks = Luks(below, names.uuid(f"luks/{wish.name}"), mapping, mapping)
        below, room = luks.path, after_luks(room)
    filled = fill(group, below, room, wish.volumes, wish.leave, names)
    if isinstance(filled, list):
        problems += filled
    if problems or isinstance(filled, list):
        return [replace(problem, where="volumes") for problem in problems]
    return DataLayout(wish.name, wish.level, placed, array, luks, filled)


def marks(names: Names, name: str) -> frozenset[str]:
    """Return the UUIDs that a scanner finds on a disk of this array: of md, or of LUKS."""
    return frozenset(str(names.uuid(f"{kind}/{name}")) for kind in ("md", "luks"))


def _disk(disk: Disk, where: str, size: int, names: Names, type_guid: UUID) -> DiskLayout:
    partuuid = names.uuid(f"{where}/{Role.DATA.value}")
    partition = Partition(Role.DATA, 1, MIB, size, partuuid, type_guid)
    return DiskLayout(disk, names.uuid(where), (partition,))


def _type(*, encrypted: bool, array: bool) -> UUID:
    if array:
        return TYPE_RAID
    return TYPE_LUKS if encrypted else TYPE_LVM


def _array(disks: Sequence[DiskLayout], wish: DataWish, names: Names) -> Array:
    members: tuple[Path, ...] = tuple(laid.partition(Role.DATA).path for laid in disks)
    component = after_md(disks[0].partition(Role.DATA).size)
    # Whole MiB are whole chunks of 512 KiB, also of half the members where their number is odd.
    size = component if wish.level == "raid1" else component * len(members) // 2
    return Array(
        Role.DATA,
        names.uuid(f"md/{wish.name}"),
        "1.2",
        bitmap=True,
        members=members,
        size=size,
        level=wish.level,
        data=wish.name,
    )
