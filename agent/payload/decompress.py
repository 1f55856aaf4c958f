"""Read a tar stream as builders hand it over: plain or compressed, told by its first bytes.

Nothing is spooled, so a pipe will do.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable
from typing import IO, BinaryIO, cast

import zstandard

Progress = Callable[[int, int], None]

# What a broken stream raises, by whichever of the decompressors.
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

_BUFFER = 1 << 20


def _zstd(file: BinaryIO) -> IO[bytes]:
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    return cast(IO[bytes], reader.stream_reader(file, read_across_frames=True))


_MAGIC: tuple[tuple[bytes, Callable[[BinaryIO], IO[bytes]]], ...] = (
    (b"\x1f\x8b", lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file))),
    (b"\xfd7zXZ\0", lambda file: cast(IO[bytes], lzma.LZMAFile(file))),  # noqa: SIM115
    (b"BZh", lambda file: cast(IO[bytes], bz2.BZ2File(file))),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x50\x2a\x4d\x18", _zstd),  # a skippable frame, with which pzstd begins
)


class Metered(io.RawIOBase):
    """A source that tells how far it was read: bytes done, and in all (0 where nobody knows)."""

    def __init__(self, source: BinaryIO, progress: Progress) -> None:
        self._source, self._progress = source, progress
        self._done, self._total = 0, _size(source)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._source.read(len(buffer))
        buffer[: len(piece)] = piece
        self._done += len(piece)
        self._progress(self._done, self._total)
        return len(piece)


def decompressed(source: BinaryIO, progress: Progress) -> IO[bytes]:
    """Return the stream inside `source`; reading it raises one of `BROKEN` where that is damaged.

    `progress` is called with bytes of `source`, compressed as it is.
    """
    file = io.BufferedReader(Metered(source, progress), _BUFFER)
    start = file.peek(6)
    for magic, reader in _MAGIC:
        if start.startswith(magic):
            return reader(file)
    return file


def read_chunk(stream: IO[bytes], size: int) -> bytearray:
    """Return the next `size` bytes, fewer only at the end of the stream."""
    chunk = bytearray(size)
    view, filled = memoryview(chunk), 0
    while filled < size:
        piece = stream.read(min(_BUFFER, size - filled))
        if not piece:
            break
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    view.release()
    del chunk[filled:]
    return chunk


def _size(source: BinaryIO) -> int:
    try:
        status = os.fstat(source.fileno())
    except (OSError, io.UnsupportedOperation):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
