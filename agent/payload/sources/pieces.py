"""Streams made of pieces, and streams whose first bytes are looked at before they are read."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import IO, BinaryIO, cast

_BUFFER = 1 << 20


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        self.name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Peeked(io.RawIOBase):
    def __init__(self, head: bytes, rest: IO[bytes], name: str) -> None:
        self._head, self._rest = memoryview(head), rest
        self.name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._head:
            piece = self._rest.read(len(buffer))
            buffer[: len(piece)] = piece
            return len(piece)
        size = min(len(buffer), len(self._head))
        buffer[:size] = self._head[:size]
        self._head = self._head[size:]
        return size


def stream_of(pieces: Iterable[bytes], name: str) -> BinaryIO:
    """Return a file that reads the pieces one after the other; `name` is for messages."""
    return cast(BinaryIO, io.BufferedReader(_Pieces(pieces, name), _BUFFER))


def peeked(stream: IO[bytes], size: int) -> tuple[bytes, BinaryIO]:
    """Return the first `size` bytes (fewer at the end), and a file that reads all of `stream`.

    A pipe may hand over its first bytes in as many pieces as it likes.
    """
    head = bytearray()
    while len(head) < size and (piece := stream.read(size - len(head))):
        head += piece
    name = getattr(stream, "name", None)
    raw = _Peeked(bytes(head), stream, name if isinstance(name, str) else "source")
    return bytes(head), cast(BinaryIO, io.BufferedReader(raw, _BUFFER))
