"""Make stretches of a block device zero, by whatever it does fastest and keeps its word on.

    punch hole    the device zeroes by itself, or refuses (block/fops.c, blkdev_fallocate)
    zero out      the kernel does: by the device, or by writing
    written       zeros like any other content

A discard is not among them: what it leaves is the device's to choose.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Iterable, Iterator

from agent.payload.direct import ALIGNMENT, Device, pages
from agent.payload.manifest import Chunk

PIECE = 256 << 20
"""Bytes of one request, so that a run that failed elsewhere does not wait for long."""
WRITTEN = 1 << 20
HOW = ("punch hole", "zero out", "written")
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)
_BLKZEROOUT = 0x127F
_REFUSED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL}
_libc = ctypes.CDLL(None, use_errno=True)


class Zeroes:
    """Zeroes stretches of one device; what it refused once is not tried again."""

    def __init__(self, device: Device, ways: tuple[str, ...] = HOW) -> None:
        self._device = device
        self._ways = list(ways)
        self.made = 0
        """Bytes that were made zero."""

    @property
    def how(self) -> str:
        """The way that was taken last: one of `HOW`."""
        return self._ways[0]

    def make(self, offset: int, length: int, stopped: threading.Event) -> Iterator[int]:
        """Make a stretch zero, yielding the bytes of each piece done; ends early if `stopped`."""
        while length and not stopped.is_set():
            count = min(length, WRITTEN if self.how == "written" else PIECE)
            self._make(offset, count)
            self.made += count
            yield count
            offset, length = offset + count, length - count

    def _make(self, offset: int, length: int) -> None:
        while True:
            try:
                self._by(self.how, offset, length)
            except OSError as error:
                if error.errno in _REFUSED and len(self._ways) > 1:
                    del self._ways[0]
                    continue
                with self._device.failing(f"cannot be zeroed at byte {offset}"):
                    raise
            else:
                return

    def _by(self, how: str, offset: int, length: int) -> None:
        if how == "punch hole":
            mode = _KEEP_SIZE | _PUNCH_HOLE
            at, count = ctypes.c_int64(offset), ctypes.c_int64(length)
            if _libc.fallocate64(self._device.descriptor, mode, at, count):
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
        elif how == "zero out":
            fcntl.ioctl(self._device.descriptor, _BLKZEROOUT, struct.pack("QQ", offset, length))
        else:
            with pages(WRITTEN) as nothing, memoryview(nothing) as view:
                for done in range(0, length, WRITTEN):
                    with view[: min(WRITTEN, length - done)] as piece:
                        self._device.write(offset + done, piece)


def stretches(chunks: Iterable[Chunk], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the zero stretches from `first` to `end`, neighbours in one."""
    begin: int | None = None
    upto = first
    for chunk in chunks:
        if chunk.zero and begin is None:
            begin = max(first, chunk.offset)
        if not chunk.zero and begin is not None:
            if upto > begin:
                yield begin, upto - begin
            begin = None
        upto = max(first, min(end, chunk.offset + chunk.length))
    if begin is not None and upto > begin:
        yield begin, upto - begin


def aligned(offset: int) -> int:
    """Return the largest place not behind `offset` that a write may begin at."""
    return offset // ALIGNMENT * ALIGNMENT
