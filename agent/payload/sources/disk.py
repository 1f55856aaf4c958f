"""A whole disk as pieces to pack, with its holes told apart from what must be read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from agent.payload.decompress import BROKEN, Progress, decompressed, read_chunk
from agent.payload.frames import Piece
from agent.payload.sources.ports import refused

SECTOR = 512

Extent = tuple[int, int]
"""Offset and length in bytes of a region that may hold something."""


class Disk(Protocol):
    """The bytes of a disk. `extents` are in order; what lies between them reads as zeros."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def extents(self) -> Iterable[Extent]: ...

    def read_into(self, offset: int, buffer: memoryview) -> None: ...


class RawDisk:
    """A raw image in a file, or a block device; holes of a file are seen by SEEK_DATA."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self.name = descriptor, name
        self.size = os.lseek(descriptor, 0, os.SEEK_END)

    def extents(self) -> Iterator[Extent]:
        """Yield what the file system of the image file has stored."""
        at = 0
        while at < self.size:
            try:
                start = os.lseek(self._descriptor, at, os.SEEK_DATA)
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                if error.errno != errno.EINVAL:
                    raise refused(self.name, f"cannot be read: {error.strerror}") from None
                start, end = at, self.size  # a device, or a file system that knows no holes
            yield start, end - start
            at = end

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            size = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if not size:
                raise refused(self.name, f"ends at byte {offset + done}: it became shorter")
            done += size


@contextmanager
def raw_disk(path: Path) -> Iterator[RawDisk]:
    """Open a raw image."""
    with path.open("rb", buffering=0) as file:
        yield RawDisk(file.fileno(), str(path))


def pieces_of(disk: Disk, chunk_size: int, progress: Progress) -> Iterator[Piece]:
    """Yield the disk in chunks; those in holes are not read.

    A disk that does not end with a sector gets zeros to its end, as qemu gives it. `progress`
    counts bytes of the disk. Raises `PlanError` where it cannot be read.
    """
    whole = -(-disk.size // SECTOR) * SECTOR
    zeros = bytes(chunk_size)
    extents = iter(disk.extents())
    extent = next(extents, None)
    for offset in range(0, whole, chunk_size):
        length = min(chunk_size, whole - offset)
        parts: list[Extent] = []
        while extent and extent[0] < offset + length:
            start = max(extent[0], offset)
            end = min(extent[0] + extent[1], offset + length, disk.size)
            if start < end:
                parts.append((start, end - start))
            if extent[0] + extent[1] > offset + length:
                break
            extent = next(extents, None)
        if parts:
            yield Piece(_filled(disk, offset, length, parts))
        else:
            yield Piece(memoryview(zeros)[:length], zero=True)
        progress(min(offset + length, disk.size), disk.size)


def stream_pieces(
    stream: BinaryIO, name: str, chunk_size: int, progress: Progress
) -> Iterator[Piece]:
    """Yield a disk that comes as a stream, plain or compressed; `progress` counts the stream."""
    try:
        file = decompressed(stream, progress)
        content = read_chunk(file, chunk_size)
        if not content:
            raise refused(name, "is empty")
        while content:
            yield Piece(content + bytes(-len(content) % SECTOR))
            content = read_chunk(file, chunk_size)
    except BROKEN as error:
        raise refused(name, f"cannot be read: {error}") from None


def _filled(disk: Disk, offset: int, length: int, parts: Iterable[Extent]) -> bytearray:
    content = bytearray(length)
    with memoryview(content) as view:
        for start, size in parts:
            try:
                disk.read_into(start, view[start - offset : start - offset + size])
            except OSError as error:
                raise refused(disk.name, f"cannot be read: {error.strerror}") from None
    return content
