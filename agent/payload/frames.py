"""Compress an image's chunks on all cores into a payload, and keep the table of its frames.

    frames = Frames(level=9, where="disk.raw")
    frames.write(pieces, file)          # pieces: an iterable of Piece, in the image's order
    frames.chunks, frames.size, frames.stored, frames.sha256

The calling thread draws the pieces and hashes them, a pool compresses, and the frames are written
in order: the same pieces give the same bytes with the same zstd library, whatever `workers` is.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, Protocol

import zstandard

from agent.errors import PlanError, Problem
from agent.payload.manifest import MAX_CHUNKS, Chunk

Content = bytes | bytearray | memoryview
_ZEROS = bytes(64 << 10)


@dataclass(frozen=True, slots=True)
class Piece:
    """What will be one chunk: 1 to `chunk_size` bytes of the image, not changed any more.

    `continues` as in the manifest. `zero` says whether all of it is zero; None has it looked at.
    """

    content: Content
    continues: bool = False
    zero: bool | None = None


class Older(Protocol):
    """Frames of an older image: `agent.payload.previous`. Asked by several threads at once."""

    def frame(self, content: Content, /) -> bytes | None: ...


class Frames:
    """The payload's frames: written by `write`, described by the rest afterwards.

    `workers` is the number of threads that compress, 0 for one on each core; each holds one piece
    and its frame, and two more pieces wait. `where` names the source in messages. Content of which
    `older` has a frame gets that one.
    """

    def __init__(
        self, *, level: int, where: str, workers: int = 0, older: Older | None = None
    ) -> None:
        self._compress = _Compressor(level, older)
        self.where = where
        self._workers = workers or os.cpu_count() or 1
        self._raw = sha256()
        self._chunks: list[Chunk] = []
        self._offset = self._at = 0

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return tuple(self._chunks)

    @property
    def size(self) -> int:
        """Bytes of the image so far."""
        return self._offset

    @property
    def stored(self) -> int:
        """Bytes of the payload so far."""
        return self._at

    @property
    def sha256(self) -> str:
        """Digest of the image so far."""
        return self._raw.hexdigest()

    def contents(self, file: IO[bytes]) -> Iterator[bytes]:
        """Yield the content of the frames, chunk by chunk, from the `file` they were written to."""
        zstd = zstandard.ZstdDecompressor()
        for chunk in self._chunks:
            file.seek(chunk.at)
            yield zstd.decompress(file.read(chunk.stored))

    def write(self, pieces: Iterable[Piece], file: IO[bytes]) -> None:
        """Append the pieces' frames to `file`, the payload.

        Raises `PlanError` if these are more chunks than a manifest may name, and whatever `pieces`
        and `file` raise; nothing is left running. Inside `publishing` an `OSError` means that the
        payload cannot be written, so `pieces` should turn its own into `PlanError`.
        """
        for frame in self._frames(pieces):
            file.write(frame)

    def _frames(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        with ThreadPoolExecutor(self._workers, "compress") as pool:
            waiting: deque[tuple[Piece, Future[tuple[bytes, bool]]]] = deque()
            for piece in pieces:
                waiting.append((piece, pool.submit(self._compress, piece)))
                self._raw.update(piece.content)
                # Two more than there are threads: none of them ever waits for the reader.
                if len(waiting) > self._workers + 2:
                    yield self._next(*waiting.popleft())
            while waiting:
                yield self._next(*waiting.popleft())

    def _next(self, piece: Piece, compressed: Future[tuple[bytes, bool]]) -> bytes:
        if len(self._chunks) == MAX_CHUNKS:
            message = f"has more than {MAX_CHUNKS} chunks, use a larger chunk size"
            raise PlanError([Problem(self.where, message)])
        frame, zero = compressed.result()
        digest, length = sha256(frame).hexdigest(), len(piece.content)
        self._chunks.append(
            Chunk(self._offset, length, self._at, len(frame), digest, zero, piece.continues)
        )
        self._offset += length
        self._at += len(frame)
        return frame


class _Compressor:
    """One zstd frame from one piece, in any thread; the frame says how long its content is.

    No content checksum: the manifest's sha256 covers the frame, and checking both costs a tenth of
    the decoding.
    """

    def __init__(self, level: int, older: Older | None) -> None:
        self._level, self._older = level, older
        self._local = threading.local()

    def __call__(self, piece: Piece) -> tuple[bytes, bool]:
        """Return the frame, and whether its content is all zero."""
        zero = _is_zero(piece.content) if piece.zero is None else piece.zero
        if self._older and (frame := self._older.frame(piece.content)):
            return frame, zero
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(
                level=self._level, write_content_size=True, write_checksum=False
            )
        return self._local.compressor.compress(piece.content), zero


def _is_zero(content: Content) -> bool:
    view = memoryview(content)
    pieces = (bytes(view[at : at + len(_ZEROS)]) for at in range(0, len(view), len(_ZEROS)))
    return all(piece == _ZEROS[: len(piece)] for piece in pieces)
