"""Show a layout: as a tree for people, as plain data for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from agent.inventory.content import described
from agent.inventory.model import Disk
from agent.layout import whole
from agent.layout.extents import MIB, gib, unused
from agent.layout.model import (
    Array,
    DiskLayout,
    FileSystem,
    Layout,
    Luks,
    Partition,
    Role,
    VolumeGroup,
)
from agent.layout.whole import Whole
from agent.plan.size import Percent, render

T = TypeVar("T")


def tree(layout: Layout | Whole) -> Iterator[str]:
    """Yield the lines of the layout: disks, then what is built on their partitions."""
    if isinstance(layout, Whole):
        yield from whole.picture(layout)
        return
    for disk in layout.disks:
        yield from _disk(disk)
    for array in layout.arrays:
        yield _array(array)
    yield from _root(layout)
    for one in layout.data:
        yield f"data {one.name}"
        for disk in one.disks:
            yield from _disk(disk)
        if one.array is not None:
            yield _array(one.array)
        yield from _stack(one.luks, one.group)
    for filesystem in layout.memory:
        yield f"memory tmpfs  {filesystem.mount}  {','.join(filesystem.options)}"
    if layout.zram is not None:
        of = " of the memory" if isinstance(layout.zram, Percent) else ""
        yield f"memory zram swap  {render(layout.zram)}{of}"


def _disk(laid: DiskLayout) -> Iterator[str]:
    yield f"disk {laid.disk}  {gib(laid.disk.size)}"
    for last, partition in _marked(laid.partitions):
        yield (
            f" {'└' if last else '├'}─ {partition.number} {partition.role.value:<5}"
            f"{_both(partition.size)}  at {partition.start // MIB} MiB  {partition.partuuid}"
        )
    if over := unused(laid):
        yield f"    (unused){gib(over):>10}  more than the smallest of these disks has"


def _array(array: Array) -> str:
    what = "mirror" if array.level == "raid1" else "array"
    odd = ""
    if array.level == "raid10" and len(array.members) % 2:
        odd = ", an odd number: every block lies on two of them, in turn"
    return (
        f"{what} {array.path}  {array.level.upper()} of {len(array.members)}, "
        f"metadata {array.metadata}{odd}"
    )


def _root(layout: Layout) -> Iterator[str]:
    boot = layout.boot
    yield f"/boot on {boot.device}  {boot.kind}  {','.join(boot.options)}"
    for esp in layout.esps:
        yield f"{esp.mount} on {esp.device}  {esp.kind}  {','.join(esp.options)}"
    yield from _stack(layout.luks, layout.group)


def _stack(luks: Luks | None, group: VolumeGroup) -> Iterator[str]:
    if luks is not None:
        yield (
            f"LUKS2 {luks.path} on {luks.device}  {luks.cipher} {luks.key_size} bit, "
            f"pbkdf2, UUID {luks.uuid}"
        )
    yield f"volume group {group.name} on {group.physical}  {gib(group.size)}"
    for last, volume in _marked(group.volumes):
        filesystem = volume.filesystem
        yield (
            f" {'└' if last else '├'}─ {volume.name:<14}{_both(volume.size)}  "
            f"{filesystem.kind:<5} {filesystem.mount:<15} {','.join(filesystem.options)}"
        )
    if group.free:
        yield f"    {'(free)':<14}{_both(group.free)}"


def losses(disk: Disk, now: datetime | None = None) -> Iterator[str]:
    """Yield what erasing the disk destroys, one line each with its age at `now`; none if blank."""
    for content in disk.content:
        yield described(content, now)


def plain(layout: Layout | Whole) -> dict[str, Any]:
    """Return the layout as JSON-able data; sizes and offsets are bytes."""
    if isinstance(layout, Whole):
        return whole.plain(layout)
    return {
        "disks": [_plain_disk(disk) for disk in layout.disks],
        "arrays": [_plain_array(array) for array in layout.arrays],
        **_plain_stack(layout.luks, layout.group),
        "boot": _plain_filesystem(layout.boot),
        "esps": [_plain_filesystem(esp) for esp in layout.esps],
        "memory": [_plain_filesystem(filesystem) for filesystem in layout.memory],
        "data": [
            {
                "name": one.name,
                "level": one.level,
                "disks": [_plain_disk(disk) for disk in one.disks],
                "arrays": [_plain_array(one.array)] if one.array is not None else [],
                **_plain_stack(one.luks, one.group),
            }
            for one in layout.data
        ],
        "zram": None if layout.zram is None else render(layout.zram),
        "deviations": list(layout.deviations),
    }


def _plain_stack(luks: Luks | None, group: VolumeGroup) -> dict[str, Any]:
    return {
        "luks": luks
        and {
            "device": str(luks.device),
            "uuid": str(luks.uuid),
            "mapping": luks.mapping,
            "cipher": luks.cipher,
            "key_size": luks.key_size,
        },
        "volume_group": {"name": group.name, "size": group.size, "free": group.free},
        "volumes": [
            {
                "name": volume.name,
                "size": volume.size,
                "rules": list(volume.rules),
                **_plain_filesystem(volume.filesystem),
            }
            for volume in group.volumes
        ],
    }


def _plain_disk(laid: DiskLayout) -> dict[str, Any]:
    return {
        "path": laid.disk.path,
        "serial": laid.disk.serial,
        "wwn": laid.disk.wwn,
        "model": laid.disk.model,
        "size": laid.disk.size,
        "guid": str(laid.guid),
        "unused": unused(laid),
        "lost": [content.model_dump(mode="json") for content in laid.disk.content],
        "partitions": [_plain_partition(partition) for partition in laid.partitions],
    }


def _plain_partition(partition: Partition) -> dict[str, Any]:
    return {
        "number": partition.number,
        "role": Role(partition.role).value,
        "name": partition.name,
        "start": partition.start,
        "size": partition.size,
        "partuuid": str(partition.partuuid),
        "type": str(partition.type_guid),
    }


def _plain_array(array: Array) -> dict[str, Any]:
    return {
        "name": array.name,
        "uuid": str(array.uuid),
        "level": array.level,
        "metadata": array.metadata,
        "bitmap": array.bitmap,
        "size": array.size,
        "members": [str(member) for member in array.members],
    }


def _plain_filesystem(filesystem: FileSystem) -> dict[str, Any]:
    return {
        "device": str(filesystem.device),
        "mount": filesystem.mount,
        "kind": filesystem.kind,
        "uuid": filesystem.uuid,
        "options": list(filesystem.options),
    }


def _both(size: int) -> str:
    """Return a size to be read and the exact one: whatever is laid out is whole MiB."""
    return f"{gib(size):>11} {size // MIB:>9} MiB"


def _marked(items: Sequence[T]) -> Iterator[tuple[bool, T]]:
    for index, item in enumerate(items, start=1):
        yield index == len(items), item
