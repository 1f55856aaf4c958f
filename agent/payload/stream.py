"""The raw image, in order, verified, in bounded memory: many connections behind one iterator.

Each connection's thread receives, hashes and decodes a chunk of its own into a buffer of its own
(all three release the interpreter lock); the caller gets them in order. At most four chunks more
than there are connections are under way or waiting, so memory does not grow with the image.
"""

from __future__ import annotations

import math
import mmap
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from agent.payload.courier import Courier
from agent.payload.direct import pages
from agent.payload.fetch import Source
from agent.payload.lent import Buffers
from agent.payload.manifest import Manifest
from agent.payload.mirrors import Mirrors, NoRangesError
from agent.payload.options import FetchOptions
from agent.payload.room import Room

AHEAD = 4
"""Chunks that may wait for the caller, so that no connection idles while one is late, or while a
large file keeps one program busy that the caller feeds."""
QUEUE = 1024
"""Chunks looked at ahead of the caller; zero ones take no buffer."""
MEMORY = 64 << 20
"""Bytes of image under way: with large chunks there are fewer connections."""


@dataclass
class Tally:
    """What each mirror did, by URL; complete when the stream has ended."""

    received: dict[str, int] = field(default_factory=dict)
    """Bytes of verified frames."""
    corrupt: dict[str, int] = field(default_factory=dict)
    """Chunks that came with a bad digest. Not empty: that mirror needs a look."""

    def note(self, mirrors: Mirrors) -> None:
        self.received = {mirror.url: mirror.received for mirror in mirrors.all}
        self.corrupt = {mirror.url: mirror.corrupt for mirror in mirrors.all if mirror.corrupt}


def stream(
    manifest: Manifest,
    source: Source,
    options: FetchOptions | None = None,
    tally: Tally | None = None,
    buffers: Buffers | None = None,
) -> Generator[memoryview, None, None]:
    """Yield the image's bytes in order, a chunk at a time, each verified before it is decoded.

    A view is page-aligned and valid until the next one is asked for, then it is released; or, with
    `buffers`, until it is given back to them. Raises
    `ImageError` naming the chunk and what every mirror did. Closing the iterator breaks all
    connections. Zero regions are made here, not fetched.
    """
    options = options or FetchOptions()
    until = math.inf if options.total is None else time.monotonic() + options.total
    mirrors = Mirrors.of(source.payload_urls)
    lanes = max(1, min(options.workers, MEMORY // manifest.chunk_size - AHEAD))
    number = 0
    try:
        while number < len(manifest.chunks):
            client_options = (options, source.origins)
            with _Crew(manifest, mirrors, client_options, lanes=lanes, until=until) as crew:
                lent = buffers or Buffers()
                try:
                    for view in crew.deliver(number, lent):
                        owner = view.obj
                        yield view
                        if buffers is None:
                            view.release()
                            lent.restore(owner)
                        number += 1
                except NoRangesError:
                    options.warn("no mirror has ranges: going on with one connection")
                    lanes, mirrors.sequential = 1, True
    finally:
        if tally is not None:
            tally.note(mirrors)


class _Crew:
    """Threads with a courier each, and the buffers they fill."""

    def __init__(
        self,
        manifest: Manifest,
        mirrors: Mirrors,
        access: tuple[FetchOptions, frozenset[str]],
        *,
        lanes: int,
        until: float,
    ) -> None:
        self._manifest, self._mirrors, self._until = manifest, mirrors, until
        self._options, self._origins = access
        self._stopped = threading.Event()
        self._couriers: list[Courier] = []
        self._mine = threading.local()
        # mmap and not bytearray: whole pages, which a pipe can take, and given back when done.
        self._buffers = [pages(manifest.chunk_size) for _ in range(lanes + AHEAD)]
        self._room = Room.of(lanes, max(chunk.stored for chunk in manifest.chunks), self._stopped)
        self._pool = ThreadPoolExecutor(lanes, "fetch", initializer=self._hire)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._room.wake()
        for courier in self._couriers:
            courier.abort()
        self._pool.shutdown(cancel_futures=True)
        for courier in self._couriers:
            courier.close()
        for buffer in self._buffers:
            with suppress(BufferError):  # the caller holds on to a view
                buffer.close()

    def deliver(self, first: int, lent: Buffers) -> Iterator[memoryview]:
        """Yield the chunks from number `first` on, in buffers that come back to `lent`."""
        zeros = memoryview(bytes(self._manifest.chunk_size))
        lent.own(self._buffers)
        waiting: deque[tuple[int, mmap.mmap | None, Future[None] | None]] = deque()
        number, count = first, len(self._manifest.chunks)
        while number < count or waiting:
            while number < count and len(waiting) < QUEUE:
                if self._manifest.chunks[number].zero:
                    waiting.append((number, None, None))
                else:
                    # With nothing under way, all buffers are with somebody who will be done.
                    buffer = lent.take(wait=not waiting)
                    if buffer is None:
                        break
                    done = self._pool.submit(self._fill, number, buffer)
                    waiting.append((number, buffer, done))
                number += 1
            ready, filled, filling = waiting.popleft()
            length = self._manifest.chunks[ready].length
            if filled is None or filling is None:
                yield zeros[:length]
            else:
                filling.result()
                yield memoryview(filled)[:length]

    def _hire(self) -> None:
        self._mine.courier = Courier(
            self._manifest,
            self._mirrors,
            self._options,
            origins=self._origins,
            until=self._until,
            stopped=self._stopped,
        )
        self._couriers.append(self._mine.courier)

    def _fill(self, number: int, buffer: mmap.mmap) -> None:
        courier: Courier = self._mine.courier
        chunk = self._manifest.chunks[number]
        frame = self._room.take(chunk.stored)
        if frame is None:  # hired too late to be told
            return
        try:
            courier.fetch(number, frame.view)
            with memoryview(buffer) as view, view[: chunk.length] as content:
                courier.decode(number, frame.view, content)
        finally:
            self._room.give(frame)
