"""When a file system was last used, by the few bytes that say so on the disk.

blkid knows labels and UUIDs, but not whether a disk was mounted yesterday or years ago, which is
what an operator needs to know before it is erased. Nothing is mounted for it.

    ext2/3/4   times of the last mount and the last write (struct ext4_super_block)
    xfs        times of the root directory: the superblock has none (struct xfs_dinode)
    md         time of the superblock's last update (md_p.h, struct mdp_superblock_1)
    LVM        time of the last change of the volume group (lvm2, format_text/export.c)
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger(__name__)

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
MIB = 1024 * 1024


def last_used(device: Path, kind: str, offset: int) -> datetime | None:
    """Return when what lies on a device was last used, in UTC; None where nothing says so.

    `kind` is libblkid's word for it, `offset` that of its signature in bytes. A time that cannot be
    (before 1990, or more than a day ahead of this clock) says nothing.
    """
    reader = _READERS.get(kind)
    if reader is None:
        return None
    latest = datetime.now(UTC) + timedelta(days=1)
    try:
        with device.open("rb") as stream:
            times = [_time(seconds) for seconds in reader(stream.fileno(), offset)]
    except (OSError, OverflowError, struct.error, IndexError) as error:
        log.info("%s: does not say when its %s was last used: %s", device, kind, error)
        return None
    possible = [time for time in times if time is not None and EARLIEST <= time <= latest]
    return max(possible, default=None)


def _time(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _ext(descriptor: int, offset: int) -> Iterator[int]:
    """Yield mount, write and creation time; the byte that makes each last until 2446 is apart."""
    start = offset - 0x38  # the signature is s_magic
    block = os.pread(descriptor, 1024, start)
    for low, high in ((0x2C, 0x275), (0x30, 0x274), (0x108, 0x276)):
        (seconds,) = struct.unpack_from("<I", block, low)
        yield seconds | block[high] << 32


def _xfs(descriptor: int, offset: int) -> Iterator[int]:
    """Yield access, modification and change time of the root directory's inode."""
    block = os.pread(descriptor, 256, offset)
    (block_size,) = struct.unpack_from(">I", block, 4)
    (root,) = struct.unpack_from(">Q", block, 56)
    (group_blocks,) = struct.unpack_from(">I", block, 84)
    (inode_size,) = struct.unpack_from(">H", block, 104)
    per_block_log, group_log = block[123], block[124]
    group = root >> (group_log + per_block_log)
    within = root & ((1 << (group_log + per_block_log)) - 1)
    place = (group * group_blocks + (within >> per_block_log)) * block_size
    place += (within & ((1 << per_block_log) - 1)) * inode_size
    inode = os.pread(descriptor, 176, offset + place)
    if inode[:2] != b"IN":
        return
    (flags,) = struct.unpack_from(">Q", inode, 120)
    big = inode[4] >= 3 and flags & 1 << 3  # XFS_DIFLAG2_BIGTIME: nanoseconds since 1901
    for field in (32, 40, 48):
        (raw,) = struct.unpack_from(">Q", inode, field)
        yield raw // 10**9 - (1 << 31) if big else raw >> 32


def _md(descriptor: int, offset: int) -> Iterator[int]:
    """Yield the time of the last update; the upper 24 bits of the field are microseconds."""
    block = os.pread(descriptor, 256, offset)
    (major,) = struct.unpack_from("<I", block, 4)
    if major == 1:
        (raw,) = struct.unpack_from("<Q", block, 192)
        yield raw & ((1 << 40) - 1)


def _lvm(descriptor: int, offset: int) -> Iterator[int]:
    """Yield the times in the metadata's text, which lies in the first MiB as LVM makes it."""
    text = os.pread(descriptor, MIB, max(0, offset - 4096))
    for match in re.finditer(rb"^creation_time = (\d{9,11})\b", text, re.MULTILINE):
        yield int(match[1])


_READERS: dict[str, Callable[[int, int], Iterator[int]]] = {
    "ext2": _ext,
    "ext3": _ext,
    "ext4": _ext,
    "xfs": _xfs,
    "linux_raid_member": _md,
    "LVM2_member": _lvm,
}
