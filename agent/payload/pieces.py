"""Single chunks of an image, verified, in any order: for who wants a few of them."""

from __future__ import annotations

import math
import threading
from types import TracebackType
from typing import Self

from agent.payload.courier import Courier
from agent.payload.fetch import Source
from agent.payload.manifest import Manifest
from agent.payload.mirrors import Mirrors
from agent.payload.options import FetchOptions


class Pieces:
    """One connection to the mirrors of an image; a context that closes it."""

    def __init__(self, manifest: Manifest, source: Source, options: FetchOptions) -> None:
        self._manifest = manifest
        self._buffer = memoryview(bytearray(manifest.chunk_size))
        mirrors = Mirrors.of(source.payload_urls)
        mirrors.sequential = True
        self._courier = Courier(
            manifest,
            mirrors,
            options,
            origins=source.origins,
            until=math.inf,
            stopped=threading.Event(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._courier.close()

    def get(self, number: int) -> bytes:
        """Return the raw bytes of chunk `number`; raise `ImageError` naming what mirrors did."""
        chunk = self._manifest.chunks[number]
        if chunk.zero:
            return bytes(chunk.length)
        into = self._buffer[: chunk.length]
        self._courier.bring(number, into)
        return bytes(into)
