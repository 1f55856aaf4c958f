"""Reuse the chunks of an older image, byte for byte, where the content is the same.

What caches, rsync and other machines hold is frames. The same content gives the same frame only
with the same zstd library and level, so where the older payload is at hand its frames are taken
over: each is decoded once, and the digest of its content found again. Nothing of the older image
is trusted for that: what is taken over was decoded here to the bytes that are being packed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import zstandard

from agent.errors import PlanError, Problem
from agent.payload.document import parse
from agent.payload.frames import Content
from agent.payload.manifest import NAME, Chunk, Manifest


@dataclass(frozen=True)
class Reused:
    """What a new image has in common with an older one: `stored` bytes in `chunks` chunks."""

    chunks: int
    stored: int


class Reader(Protocol):
    """Read a part of the older payload; threads may do so at once."""

    def __call__(self, size: int, offset: int, /) -> bytes: ...


class Previous:
    """An older image. `frames` is empty where its payload is not at hand."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._frames: dict[bytes, Chunk] = {}
        self._read: Reader | None = None

    @property
    def has_payload(self) -> bool:
        return self._read is not None

    def learn(self, read: Reader, workers: int) -> None:
        """Look at all frames of the older payload; those that are damaged are left out."""
        self._read = read
        with ThreadPoolExecutor(workers, "previous") as pool:
            for digest, chunk in pool.map(self._content, self.manifest.chunks, chunksize=1):
                if digest:
                    self._frames.setdefault(digest, chunk)

    def frame(self, content: Content) -> bytes | None:
        """Return the older image's frame of this content, if it has one."""
        if self._read is None:
            return None
        chunk = self._frames.get(sha256(content).digest())
        return None if chunk is None else self._sound(chunk)

    def reused(self, manifest: Manifest) -> Reused:
        """Compare: a chunk is reused if the older image has its frame."""
        older = {chunk.sha256 for chunk in self.manifest.chunks}
        same = [chunk.stored for chunk in manifest.chunks if chunk.sha256 in older]
        return Reused(len(same), sum(same))

    def _sound(self, chunk: Chunk) -> bytes | None:
        assert self._read is not None
        frame = self._read(chunk.stored, chunk.at)
        return frame if sha256(frame).hexdigest() == chunk.sha256 else None

    def _content(self, chunk: Chunk) -> tuple[bytes, Chunk]:
        """Return the digest of a chunk's content, empty if its frame is not sound."""
        frame = self._sound(chunk)
        try:
            parameters = zstandard.get_frame_parameters(frame or b"")
            if frame is None or parameters.content_size != chunk.length:
                return b"", chunk
            content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError:
            return b"", chunk
        return sha256(content).digest(), chunk


@contextmanager
def previous_image(
    document: Path, kind: Literal["tree", "disk"], workers: int
) -> Iterator[Previous]:
    """Open the manifest of an older image, and the payload beside it if there is one.

    Raises `PlanError` if it is no manifest, or of another kind.
    """
    try:
        content = document.read_bytes()
    except OSError as error:
        raise _refused(document, f"cannot be read: {error.strerror}") from None
    manifest = parse(content)
    if manifest.kind != kind:
        raise _refused(document, f"is the image of a {manifest.kind}, this one is of a {kind}")
    previous = Previous(manifest)
    with ExitStack() as stack:
        for url in manifest.payload.urls:
            path = document.parent / url.rpartition("/")[2]
            if NAME.fullmatch(path.name) and path.is_file():
                file = stack.enter_context(path.open("rb"))
                previous.learn(_reader(file), workers)
                break
        yield previous


def _reader(file: BinaryIO) -> Reader:
    return lambda size, offset: os.pread(file.fileno(), size, offset)


def _refused(document: Path, message: str) -> PlanError:
    return PlanError([Problem(str(document), message)])
