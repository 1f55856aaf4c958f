"""Turn chosen disks and wishes into a complete `Layout`, or every reason why it cannot be.

Pure: the same plan on the same machine gives the same layout, UUID by UUID, so a preview shows
exactly what apply() will create.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from agent.errors import Problem
from agent.inventory.model import Disk
from agent.layout.extents import Extent, after_luks, after_md, after_pv, cut
from agent.layout.lvm import mapper_path, name_problems, volume_name
from agent.layout.model import (
    TYPE_ESP,
    TYPE_LINUX,
    TYPE_LUKS,
    TYPE_LVM,
    TYPE_RAID,
    Array,
    DiskLayout,
    FileSystem,
    Layout,
    Luks,
    Partition,
    Role,
    Volume,
    VolumeGroup,
)
from agent.layout.share import Want, share
from agent.plan.filesystem import SMALLEST
from agent.plan.size import Percent
from agent.plan.wanted import Grow, StorageWish, TmpfsWish, VolumeWish

EXTENT = 4 * 1024 * 1024
ESP_MOUNTS = ("/boot/efi", "/boot/efi2", "/boot/efi3")
XFS_LABEL = 12  # characters (mkfs.xfs(8)); ext4 takes 16, vfat 11


@dataclass(frozen=True)
class Names:
    """Chooses every UUID: from the plan's id and the machine's name, so nothing is left to chance.

    The machine is part of it because a careless template may give one plan id to a whole fleet,
    and two machines must never have volumes of the same UUID.
    """

    plan: UUID
    machine: str

    def uuid(self, what: str) -> UUID:
        return uuid5(self.plan, f"{self.machine}/{what}")

    def esps(self, count: int) -> tuple[UUID, ...]:
        """Return the PARTUUIDs of the ESPs on `count` disks, in order."""
        return tuple(self.uuid(f"disk{index}/{Role.ESP.value}") for index in range(count))

    def volume_id(self, what: str) -> str:
        """Return a FAT volume id as blkid shows it: `AAAA-BBBB`."""
        digits = self.uuid(what).hex[:8].upper()
        return f"{digits[:4]}-{digits[4:]}"


def place(
    disks: Sequence[Disk], wishes: StorageWish, names: Names, *, encrypted: bool
) -> Layout | list[Problem]:
    """Lay the system out; return problems instead when it does not fit."""
    problems = list(_name_problems(disks, wishes))
    extents = cut(disks, esp=wishes.esp.size, boot=wishes.boot.size)
    if isinstance(extents, Problem):
        return [*problems, extents]
    types = _types(encrypted=encrypted, mirrored=len(disks) > 1)
    placed = tuple(_partition(disk, i, extents, types, names) for i, disk in enumerate(disks))
    arrays = _arrays(placed, names) if len(placed) > 1 else ()
    below = arrays[1].path if arrays else placed[0].partition(Role.ROOT).path
    below_size = arrays[1].size if arrays else placed[0].partition(Role.ROOT).size
    luks = None
    if encrypted:
        luks = Luks(below, names.uuid("luks"), "bedplate-root", "bedplate-root")
        below, below_size = luks.path, after_luks(below_size)
    wanted = (*wishes.volumes, *_swap(wishes.swap))
    group = fill(wishes.volume_group, below, below_size, wanted, wishes.leave, names)
    if isinstance(group, list):
        return [*problems, *group]
    if problems:
        return problems
    boot_device = arrays[0].path if arrays else placed[0].partition(Role.BOOT).path
    return Layout(
        disks=placed,
        arrays=arrays,
        luks=luks,
        group=group,
        boot=_boot(boot_device, wishes, names),
        esps=tuple(_esp(i, disk, wishes, names) for i, disk in enumerate(placed)),
        memory=tuple(_memory(tmpfs) for tmpfs in wishes.tmpfs),
        deviations=wishes.deviations,
        zram=wishes.zram,
    )


def fill(
    name: str,
    physical: Path,
    size: int,
    wanted: Sequence[VolumeWish],
    leave: int | Percent,
    names: Names,
) -> VolumeGroup | list[Problem]:
    """Return a group on a device of `size` bytes with the volumes, or why they do not fit."""
    total = after_pv(size, EXTENT)
    wants = [_want(wish, total) for wish in wanted]
    sizes = share(wants, total, EXTENT, _bytes(leave, total))
    if isinstance(sizes, list):
        return sizes
    volumes = tuple(_volume(wish, sizes[wish.mount], name, names) for wish in wanted)
    return VolumeGroup(name, physical, total, volumes, EXTENT)


def _name_problems(disks: Sequence[Disk], wishes: StorageWish) -> Iterator[Problem]:
    """Yield the mount points that cannot be volumes: two of one name, or an ESP's place."""
    mounts = [wish.mount for wish in wishes.volumes]
    swap = ["/swap"] if wishes.swap is not None else []  # a mount point of that name clashes
    yield from name_problems(wishes.volume_group, [*mounts, *swap])
    for number, place in enumerate(ESP_MOUNTS[: len(disks)], start=1):
        if place in mounts:
            yield Problem("storage.volumes", f"{place} is where the ESP of disk {number} is")


def _partition(
    disk: Disk, index: int, extents: Sequence[Extent], types: Mapping[Role, UUID], names: Names
) -> DiskLayout:
    return DiskLayout(
        disk,
        names.uuid(f"disk{index}"),
        tuple(
            Partition(
                extent.role,
                number,
                extent.start,
                extent.size,
                names.uuid(f"disk{index}/{extent.role.value}"),
                types[extent.role],
            )
            for number, extent in enumerate(extents, start=1)
        ),
    )


def _types(*, encrypted: bool, mirrored: bool) -> Mapping[Role, UUID]:
    if mirrored:
        return {Role.ESP: TYPE_ESP, Role.BOOT: TYPE_RAID, Role.ROOT: TYPE_RAID}
    root = TYPE_LUKS if encrypted else TYPE_LVM
    return {Role.ESP: TYPE_ESP, Role.BOOT: TYPE_LINUX, Role.ROOT: root}


def _arrays(disks: Sequence[DiskLayout], names: Names) -> tuple[Array, ...]:
    def array(role: Role, metadata: str, *, bitmap: bool) -> Array:
        members = tuple(disk.partition(role) for disk in disks)
        return Array(
            role,
            names.uuid(f"md/{role.value}"),
            metadata,
            bitmap,
            tuple(member.path for member in members),
            after_md(members[0].size),
        )

    # Metadata 1.0 lies at the end, so firmware and GRUB see a plain file system in front of it; a
    # write-intent bitmap pays only where a resync is long.
    return (array(Role.BOOT, "1.0", bitmap=False), array(Role.ROOT, "1.2", bitmap=True))


def _volume(wish: VolumeWish, size: int, group: str, names: Names) -> Volume:
    mount = wish.mount
    name = "swap" if wish.filesystem == "swap" else volume_name(mount)
    device = mapper_path(group, name)
    filesystem = FileSystem(
        device=device,
        source=str(device),
        mount=mount,
        kind=wish.filesystem,
        uuid=str(names.uuid(f"fs{mount}")),
        label=name[:XFS_LABEL],
        options=wish.options,
        passno=0 if wish.filesystem != "ext4" else (1 if mount == "/" else 2),
    )
    return Volume(name, size, filesystem, wish.rules)


def _boot(device: Path, wishes: StorageWish, names: Names) -> FileSystem:
    uuid = str(names.uuid("fs/boot"))
    kind = wishes.boot.filesystem
    return FileSystem(
        device, f"UUID={uuid}", "/boot", kind, uuid, "boot", wishes.boot.options, passno=2
    )


def _esp(index: int, disk: DiskLayout, wishes: StorageWish, names: Names) -> FileSystem:
    volume_id = names.volume_id(f"disk{index}/fs/esp")
    return FileSystem(
        disk.partition(Role.ESP).path,
        f"UUID={volume_id}",
        ESP_MOUNTS[index],
        "vfat",
        volume_id,
        f"ESP{index + 1}",
        wishes.esp.options,
    )


def _memory(wish: TmpfsWish) -> FileSystem:
    return FileSystem(Path("tmpfs"), "tmpfs", wish.mount, "tmpfs", "", "", wish.options)


def _swap(size: int | Percent | None) -> tuple[VolumeWish, ...]:
    if size is None:
        return ()
    return (VolumeWish("none", size, SMALLEST["swap"], "swap"),)


def _want(wish: VolumeWish, total: int) -> Want:
    return Want(
        wish.mount,
        size=wish.size if isinstance(wish.size, int) else None,
        percent=wish.size if isinstance(wish.size, Percent) else None,
        grow=wish.size.weight if isinstance(wish.size, Grow) else None,
        minimum=wish.minimum,
        maximum=None if wish.maximum is None else _bytes(wish.maximum, total),
    )


def _bytes(size: int | Percent, total: int) -> int:
    return size.of(total) if isinstance(size, Percent) else size
