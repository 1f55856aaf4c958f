"""Tell a file system by its first bytes, with its UUID and label.

Sources: ext4 "Disk Layout" in the kernel's documentation; xfs_format.h; btrfs "On-disk Format";
Microsoft's FAT specification; squashfs and EROFS in the kernel's documentation; LUKS2 on-disk
format 1.1; lvm2's label in lib/label of LVM2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

HEAD = 128 << 10
"""Bytes that `probe` wants; btrfs keeps its superblock at 64 KiB."""

_RECOVER = 0x4
"""INCOMPAT_RECOVER of ext4."""


@dataclass(frozen=True)
class FileSystem:
    """What was found. `uuid` is as blkid(8) writes it, in lower case; both may be empty.

    `dirty` says of ext4 that its journal holds what its blocks do not.
    """

    type: str
    uuid: str = ""
    label: str = ""
    dirty: bool = False


def probe(head: bytes) -> FileSystem | None:
    """Return what lies in a partition or an image that begins so, or None."""
    for found in (_ext(head), _xfs(head), _btrfs(head), _vfat(head)):
        if found:
            return found
    for at, magic, type_ in _OTHERS:
        if head[at : at + len(magic)] == magic:
            return FileSystem(type_)
    return None


_OTHERS = (
    (0, b"hsqs", "squashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"LABELONE", "LVM"),
    (512, b"LABELONE", "LVM"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "md RAID"),
    (4086, b"SWAPSPACE2", "swap"),
)


def _ext(head: bytes) -> FileSystem | None:
    block = head[1024:2048]
    if block[0x38:0x3A] != b"\x53\xef":
        return None
    dirty = bool(block[0x60] & _RECOVER)
    return FileSystem("ext4", str(UUID(bytes=block[0x68:0x78])), _text(block[0x78:0x88]), dirty)


def _xfs(head: bytes) -> FileSystem | None:
    if head[:4] != b"XFSB":
        return None
    return FileSystem("xfs", str(UUID(bytes=head[32:48])), _text(head[108:120]))


def _btrfs(head: bytes) -> FileSystem | None:
    block = head[0x10000:0x11000]
    if block[0x40:0x48] != b"_BHRfS_M" or len(block) < 0x22B:
        return None
    return FileSystem("btrfs", str(UUID(bytes=block[0x20:0x30])), _text(block[0x12B:0x22B]))


def _vfat(head: bytes) -> FileSystem | None:
    """FAT has no magic of its own: its name in the boot sector is what writers agree on."""
    if head[510:512] != b"\x55\xaa":
        return None
    if head[82:87] == b"FAT32":
        number, label = head[67:71], head[71:82]
    elif head[54:58] == b"FAT1":
        number, label = head[39:43], head[43:54]
    else:
        return None
    (serial,) = struct.unpack("<I", number)
    name = _text(label).strip()
    shown = f"{serial >> 16:04x}-{serial & 0xFFFF:04x}"
    return FileSystem("vfat", shown, "" if name == "NO NAME" else name)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")
