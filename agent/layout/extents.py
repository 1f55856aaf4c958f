"""Cut disks into partitions: start and size of each, aligned, inside the disk, equal on both legs.

All sizes are bytes and multiples of 1 MiB, the alignment every partitioner has used since 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.errors import Problem
from agent.inventory.model import Disk
from agent.layout.model import DiskLayout, Role

MIB = 1024 * 1024
GIB = 1024 * MIB

SMALLEST_ROOT = 4 * GIB


@dataclass(frozen=True)
class Extent:
    """A stretch of one disk."""

    role: Role
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


def usable(disk: Disk) -> int:
    """Return the bytes between the first MiB and the last full MiB before the backup GPT.

    GPT needs 34 sectors in front and 33 at the end (UEFI 2.10 §5.3); with 4 KiB sectors that is
    still less than a MiB each.
    """
    return (disk.size // MIB) * MIB - 2 * MIB


def unused(laid: DiskLayout) -> int:
    """Return the bytes behind the last partition: what a disk has over the smallest of a mirror."""
    return max(0, MIB + usable(laid.disk) - max(part.end for part in laid.partitions))


def cut(disks: Sequence[Disk], *, esp: int, boot: int) -> tuple[Extent, ...] | Problem:
    """Return the extents every one of the disks gets, or why they are too small.

    `esp` and `boot` are their sizes in bytes; the root takes the rest.

    The legs of a mirror are cut alike, by the smallest disk, so that either can stand in for
    the other; what a larger one has left over stays unused.
    """
    smallest = min(disks, key=lambda disk: disk.size)
    esp, boot = up(esp), up(boot)
    root = usable(smallest) - esp - boot
    if root < SMALLEST_ROOT:
        need = esp + boot + SMALLEST_ROOT + 2 * MIB
        return Problem(
            "disks",
            f"{smallest} has {gib(smallest.size)}, the ESP, /boot and the smallest root need "
            f"{gib(need)}",
        )
    for disk in disks:
        if esp < (least := smallest_esp(disk)):
            return Problem(
                "storage.preset",
                f"an ESP of {gib(esp)} is too small for {disk}, whose sectors have "
                f"{disk.sector_size} bytes: FAT32 needs {gib(least)}",
            )
    extents = []
    start = MIB
    for role, size in ((Role.ESP, esp), (Role.BOOT, boot), (Role.ROOT, root)):
        extents.append(Extent(role, start, size))
        start += size
    return tuple(extents)


def smallest_esp(disk: Disk) -> int:
    """Return the bytes of the smallest FAT32: 65525 clusters of a sector, and its two tables.

    With fewer clusters a file system is FAT16 by definition (Microsoft's FAT specification), which
    firmware need not read on a fixed disk (UEFI 2.10 §13.3.1).
    """
    return up(65525 * (disk.sector_size + 8) + 32 * disk.sector_size)


def up(size: int) -> int:
    """Return the size rounded up to a whole MiB."""
    return (size + MIB - 1) // MIB * MIB


def after_md(member: int) -> int:
    """Return the size of a RAID1 over members of `member` bytes, never more than mdadm gives.

    Metadata 1.2 lies in front: mdadm reserves the superblock, the bitmap and a head room of at most
    128 MiB, halved until it is below a thousandth of the member (mdadm super1.c,
    validate_geometry1). Reserving all of that and 4 MiB more is a lower bound for 1.0 and 1.2.
    """
    headroom = 128 * MIB
    while headroom > MIB and headroom << 10 > member:
        headroom >>= 1
    return member - headroom - 4 * MIB


def after_luks(device: int) -> int:
    """Return what a LUKS2 container of `device` bytes holds: 16 MiB go to the two headers."""
    return device - 16 * MIB


def after_pv(device: int, extent: int) -> int:
    """Return what a volume group on one physical volume offers: whole extents after 1 MiB."""
    return (device - MIB) // extent * extent


def gib(size: int) -> str:
    """Return bytes for a message, in GiB with one digit, or MiB below one GiB."""
    if size < GIB:
        return f"{size / MIB:.0f} MiB"
    return f"{size / GIB:.1f} GiB"
