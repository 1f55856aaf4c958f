"""A stream that is what its digest says, or is refused before its end is seen."""

from __future__ import annotations

import hashlib
import io
import re
from typing import IO, BinaryIO, cast

from agent.payload.sources.ports import refused

DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
"""Digests as OCI writes them."""


class _Checked(io.RawIOBase):
    def __init__(self, stream: IO[bytes], digest: str, size: int | None, where: str) -> None:
        self._stream, self._digest, self._size, self._where = stream, digest, size, where
        self._sum, self._done = hashlib.new(digest.partition(":")[0]), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._stream.read(len(buffer))
        self._done += len(piece)
        if self._size is not None and self._done > self._size:
            raise refused(self._where, f"is longer than {self._size} bytes")
        if not piece:
            self._judge()
        self._sum.update(piece)
        buffer[: len(piece)] = piece
        return len(piece)

    def _judge(self) -> None:
        if self._size is not None and self._done != self._size:
            raise refused(self._where, f"is {self._done} bytes long, must be {self._size}")
        found = f"{self._sum.name}:{self._sum.hexdigest()}"
        if found != self._digest:
            raise refused(self._where, f"has the digest {found}, must be {self._digest}")


def checked(stream: IO[bytes], digest: str, size: int | None, where: str) -> BinaryIO:
    """Return `stream`, whose last read raises `PlanError` unless all of it has this digest.

    `digest` matches `DIGEST`. `size` is in bytes; more is never read. `where` is for messages.
    """
    raw = _Checked(stream, digest, size, where)
    return cast(BinaryIO, io.BufferedReader(raw, 1 << 20))
