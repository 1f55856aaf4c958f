"""Threads that bring chunks in any order, each with a courier of its own.

Where order does not matter nobody has to wait for anybody: every thread receives, verifies and
decodes a chunk, and hands it on, all of which leave the interpreter to the others. There are more
threads than cores because some wait for the network or the disk, and only as many buffers as
cores, because more cannot decode.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue

from agent.payload.courier import Courier
from agent.payload.direct import pages
from agent.payload.fetch import Source
from agent.payload.manifest import Manifest
from agent.payload.mirrors import Mirrors, NoRangesError
from agent.payload.options import FetchOptions
from agent.payload.room import Room

MEMORY = 24 << 20
"""Bytes of image under way: with large chunks there are fewer threads."""
SPARE = 1
"""Threads without a buffer: they wait for the network, or have a frame ready for the next. Of those
with one some wait for the device, and a core that nobody decodes on is idle then."""

Use = Callable[[int, memoryview], None]
"""Called with a chunk's number and its bytes, in the thread that brought it."""
Errand = Callable[[threading.Event], None]
"""Something else that is to be done meanwhile; the event is set when it is wanted no longer."""


class Crew:
    """`until` (time.monotonic) is when everything must be there."""

    def __init__(
        self,
        manifest: Manifest,
        source: Source,
        options: FetchOptions,
        mirrors: Mirrors,
        *,
        until: float,
    ) -> None:
        self._manifest, self._source, self._options = manifest, source, options
        self._mirrors, self._until = mirrors, until
        self._lanes = max(1, min(options.workers, MEMORY // manifest.chunk_size))
        self._done: set[int] = set()

    def bring(self, numbers: Sequence[int], use: Use, errand: Errand = lambda _: None) -> None:
        """Have every chunk used; raise what went wrong first, when all threads have ended.

        `errand` runs beside them. Where no mirror has ranges, one connection goes from front to
        back instead, and `errand` is called again to finish.
        """
        try:
            shift = _Shift(self._manifest, self._hire, self._lanes)
            shift.work(numbers, self._noting(use), errand)
        except NoRangesError:
            self._options.warn("no mirror has ranges: going on with one connection")
            self._mirrors.sequential = True
            left = [number for number in numbers if number not in self._done]
            _Shift(self._manifest, self._hire, 1).work(left, use, errand)

    def _noting(self, use: Use) -> Use:
        def used(number: int, content: memoryview) -> None:
            use(number, content)
            self._done.add(number)

        return used

    def _hire(self, stopped: threading.Event) -> Courier:
        return Courier(
            self._manifest,
            self._mirrors,
            self._options,
            origins=self._source.origins,
            until=self._until,
            stopped=stopped,
        )


class _Shift:
    """One go at a list of chunks: the first failure sends everybody home."""

    def __init__(
        self, manifest: Manifest, hire: Callable[[threading.Event], Courier], lanes: int
    ) -> None:
        self._manifest, self._hire, self._lanes = manifest, hire, lanes
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        most = max(chunk.stored for chunk in manifest.chunks)
        self._room = Room.of(lanes, most, self._stopped)
        self._couriers: list[Courier] = []
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._failure: BaseException | None = None

    def work(self, numbers: Iterable[int], use: Use, errand: Errand) -> None:
        queue, lanes = iter(numbers), self._lanes
        buffers = [pages(self._manifest.chunk_size) for _ in range(max(1, lanes - SPARE))]
        for buffer in buffers:
            self._free.put(memoryview(buffer))
        threads = [
            threading.Thread(target=self._guarded, args=(self._lane, queue, use), name=f"lane{n}")
            for n in range(lanes)
        ]
        threads.append(
            threading.Thread(target=self._guarded, args=(errand, self._stopped), name="errand")
        )
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as error:
            self._stop(error)
            raise
        finally:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # raised again by the thread that waits
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
            self._stopped.set()
            couriers = list(self._couriers)
        self._room.wake()
        for courier in couriers:
            courier.abort()

    def _lane(self, queue: Iterator[int], use: Use) -> None:
        courier = self._hire(self._stopped)
        with self._lock:
            self._couriers.append(courier)
        try:
            while (number := self._next(queue)) is not None:
                self._bring(courier, number, use)
        finally:
            with self._lock:
                self._couriers.remove(courier)
            courier.close()

    def _bring(self, courier: Courier, number: int, use: Use) -> None:
        chunk = self._manifest.chunks[number]
        frame = self._room.take(chunk.stored)
        if frame is None:
            return
        try:
            courier.fetch(number, frame.view)
            buffer = self._free.get()
            try:
                with buffer[: chunk.length] as content:
                    courier.decode(number, frame.view, content)
                    self._room.give(frame)
                    frame = None
                    use(number, content)
            finally:
                self._free.put(buffer)
        finally:
            if frame is not None:
                self._room.give(frame)

    def _next(self, queue: Iterator[int]) -> int | None:
        with self._lock:
            return None if self._stopped.is_set() else next(queue, None)
