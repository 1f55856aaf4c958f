"""List the files of an initrd without unpacking it.

An initrd is a row of cpio archives in the newc format, the first ones plain (microcode), the last
one compressed (kernel, Documentation/driver-api/early-userspace/buffer-format.rst). Names are read
as the stream passes by; memory use does not grow with the initrd.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from agent.errors import ImageError

NEWC = (b"070701", b"070702")
ZSTD, GZIP, XZ, BZIP2 = b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh"
HEADER = 110  # bytes: a magic of six and thirteen fields of eight hexadecimal digits
LONGEST_NAME = 1 << 16
BLOCK = 1 << 18


def names(initrd: Path) -> frozenset[str]:
    """Return the path of every file in the initrd, without a leading slash.

    Raises `ImageError` for what is damaged, or compressed in a way that cannot be read here (lz4).
    """
    try:
        with initrd.open("rb") as raw:
            return frozenset(_archives(raw))
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError, ValueError) as error:
        raise ImageError(f"{initrd.name}: is not an initrd that can be read: {error}") from error


def _archives(raw: BinaryIO) -> Iterator[str]:
    while magic := _magic(raw):
        if magic in NEWC:
            yield from _archive(raw, magic)
            continue
        raw.seek(-len(magic), io.SEEK_CUR)
        plain = _decompressed(raw, magic)
        inside = _magic(plain)
        if not inside:  # zstd's reader takes a cut frame for an end without a word
            raise EOFError("ends in the middle")
        while inside:
            yield from _archive(plain, inside)
            inside = _magic(plain)
        return


def _magic(stream: BinaryIO) -> bytes:
    """Return the next six bytes after any padding, or none at the end."""
    first = stream.read(1)
    while first == b"\0":
        first = stream.read(1)
    return first + stream.read(5) if first else b""


def _archive(stream: BinaryIO, magic: bytes) -> Iterator[str]:
    """Yield the names of one archive whose first magic has been read, up to its trailer."""
    while True:
        header = magic + _exactly(stream, HEADER - len(magic))
        if header[:6] not in NEWC:
            raise ValueError(f"no cpio header where one must be, but {header[:6].hex()}")
        size, length = int(header[54:62], 16), int(header[94:102], 16)
        if not 0 < length <= LONGEST_NAME:
            raise ValueError(f"a file name of {length} bytes")
        # dracut-cpio pads names with NULs, so that file content begins at a block.
        name = _exactly(stream, length + -(HEADER + length) % 4).split(b"\0", 1)[0]
        if name == b"TRAILER!!!":
            return
        yield name.decode(errors="replace").removeprefix("./").lstrip("/")
        _skip(stream, size + -size % 4)
        magic = b""


def _decompressed(raw: BinaryIO, magic: bytes) -> BinaryIO:
    plain: object
    if magic.startswith(ZSTD):
        plain = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(
            raw, read_across_frames=True, closefd=False
        )
    elif magic.startswith(GZIP):
        plain = gzip.GzipFile(fileobj=raw)
    elif magic == XZ:
        plain = lzma.LZMAFile(raw)  # noqa: SIM115 – owns nothing but the caller's file
    elif magic.startswith(BZIP2):
        plain = bz2.BZ2File(raw)
    else:
        raise ValueError(f"starts with {magic.hex()}, which is no cpio, zstd, gzip, xz or bzip2")
    return io.BufferedReader(cast(io.RawIOBase, plain), BLOCK)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    got = stream.read(size)
    if len(got) < size:
        raise EOFError("ends in the middle")
    return got


def _skip(stream: BinaryIO, size: int) -> None:
    while size:
        size -= len(_exactly(stream, min(size, BLOCK)))
