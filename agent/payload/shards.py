"""Several extractors side by side: runs of an archive's members, each to the one least behind.

Whoever makes the archive says where it may be taken apart (docs/image-format.md, `continues` and
`tail`), so nothing here reads it. Each extractor is a program with a thread of its own that feeds
it. The chunks are only lent to us, so pieces of them are copied: a fortieth of the CPU time that
unpacking takes, and memory that depends on neither the image nor the size of its chunks.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self

from agent.errors import ImageError
from agent.payload.manifest import Manifest

MOST = 4
"""Extractors at most: file systems and disks do not get faster by more."""
PIECE = 1 << 20
"""Bytes copied at a time: what a pipe holds, and what stays in a core's cache."""
WAITING = 3
"""Pieces that may wait for each extractor, so that a large file for one does not starve the rest.
"""
PATIENCE = 600.0
"""Seconds in which a program must read something; disks in trouble retry for minutes."""
_LOOK = 0.2

Open = Callable[[], AbstractContextManager[IO[bytes]]]
Chunk = bytes | memoryview


@dataclass(frozen=True)
class Cuts:
    """Where an archive may be taken apart.

    `heads` says for each chunk before `tail` whether it begins with a member; the chunks from
    `tail` on must come last, and in order. `lanes` is how many extractors there may be.
    """

    heads: tuple[bool, ...]
    tail: int
    lanes: int = field(default_factory=lambda: min(MOST, os.cpu_count() or 1))

    @classmethod
    def of(cls, manifest: Manifest) -> Cuts | None:
        """Return the cuts of a tree; None if the order of its members matters."""
        tail = manifest.tree.tail if manifest.tree else None
        if not tail:
            return None
        return cls(tuple(not chunk.continues for chunk in manifest.chunks[:tail]), tail)


class StoppedError(Exception):
    """Another extractor failed, so this one is to end."""


def feed(
    pipe: IO[bytes],
    content: Chunk,
    patience: float = PATIENCE,
    stopped: threading.Event | None = None,
) -> None:
    """Write all of `content` to the program behind `pipe`.

    Raises `ImageError` when it reads nothing for `patience` seconds, `StoppedError` soon after
    `stopped` is set, and `BrokenPipeError` when it has ended.
    """
    descriptor = pipe.fileno()
    os.set_blocking(descriptor, False)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    with memoryview(content) as view:
        done, until = 0, time.monotonic() + patience
        while done < len(view):
            try:
                with view[done:] as left:
                    done += os.write(descriptor, left)
                until = time.monotonic() + patience
            except BlockingIOError:
                poll.poll(1000 * min(_LOOK, patience))
                if stopped is not None and stopped.is_set():
                    raise StoppedError from None
                if time.monotonic() > until:
                    raise ImageError(f"tar has read nothing for {patience:g} s") from None


class Shards:
    """Extractors, fed by `put`. A context: they end when it is left normally, and are killed else.

    `open` starts one, as soon as there is something for it, and yields its stdin. What it raises on
    leaving is raised here, the first failure of all before any other, and stops the others.
    """

    def __init__(self, open: Open, lanes: int, patience: float = PATIENCE) -> None:
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._open, self._patience = open, patience
        self._lanes = [_Lane() for _ in range(lanes)]
        self._threads = [
            threading.Thread(target=self._guarded, args=(lane,), name=f"tar{number}")
            for number, lane in enumerate(self._lanes)
        ]
        self._current = self._lanes[0]

    @property
    def fed(self) -> int:
        """Bytes that the extractors were given."""
        return sum(lane.fed for lane in self._lanes)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            if error is not None:
                self._stopped.set()
            for lane in self._lanes:
                lane.ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        if error is None:
            self._check()

    def put(self, chunk: Chunk, *, head: bool) -> None:
        """Give a chunk to the extractor that is least behind, or the rest of a run to the same.

        The chunk is free for other uses when this returns.
        """
        with memoryview(chunk) as view:
            for start in range(0, len(view), PIECE):
                with view[start : start + PIECE] as piece:
                    buffer = self._buffer(fresh=head and not start)
                    buffer[: len(piece)] = piece
                    with self._changed:
                        self._current.waiting.append((buffer, len(piece)))
                        self._changed.notify_all()

    def _buffer(self, *, fresh: bool) -> bytearray:
        """Wait for a buffer of the current lane, or of the lane with most of them."""
        with self._changed:
            while True:
                self._check()
                if fresh:
                    self._current = max(self._lanes, key=lambda lane: len(lane.free))
                if self._current.free:
                    return self._current.free.pop()
                self._changed.wait()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _guarded(self, lane: _Lane) -> None:
        try:
            waiting = self._next(lane)
            if waiting is None:  # tar calls it an error to get nothing at all
                return
            with self._open() as pipe:
                while waiting is not None:
                    buffer, length = waiting
                    with memoryview(buffer)[:length] as content:
                        feed(pipe, content, self._patience, self._stopped)
                    with self._changed:
                        lane.fed += length
                        lane.free.append(buffer)
                        self._changed.notify_all()
                    waiting = self._next(lane)
        except BaseException as error:  # raised again in the thread that feeds us
            with self._changed:
                self._failure = self._failure or error
                self._stopped.set()
                self._changed.notify_all()

    def _next(self, lane: _Lane) -> tuple[bytearray, int] | None:
        with self._changed:
            while not (lane.waiting or lane.ended or self._stopped.is_set()):
                self._changed.wait()
            if self._stopped.is_set():
                raise StoppedError
            return lane.waiting.popleft() if lane.waiting else None


@dataclass(eq=False)
class _Lane:
    """What waits for one extractor, and the buffers that are free for more."""

    free: list[bytearray] = field(
        default_factory=lambda: [bytearray(PIECE) for _ in range(WAITING)]
    )
    waiting: deque[tuple[bytearray, int]] = field(default_factory=deque)
    fed: int = 0
    ended: bool = False
