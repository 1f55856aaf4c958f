"""Several extractors side by side: runs of an archive's members, each to the one least behind.

Whoever makes the archive says where it may be taken apart (docs/image-format.md, `continues` and
`tail`), so nothing here reads it. Each extractor is a program with a thread of its own that feeds
it. Chunks that are lent to us go to the extractors page by page and are given back when they have
been read (see `agent.payload.lent`). Of others pieces are copied.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

from agent.errors import ImageError
from agent.payload.lent import Spliced
from agent.payload.manifest import Manifest
from agent.payload.tar import Attribute

MOST = 4
"""Extractors at most: file systems and disks do not get faster by more."""
PIECE = 1 << 20
"""Bytes copied at a time: what a pipe holds, and what stays in a core's cache."""
WAITING = 3
"""Pieces that may wait for each extractor, so that a large file for one does not starve the rest.
"""
HELD = 4
"""Lent chunks that an extractor may hold: two that wait, one it is fed with, and what is in its
pipe of the one before."""
LENT_FROM = 256 << 10
"""Bytes of a chunk from which it is worth waiting for until its pages have been read."""
PATIENCE = 600.0
"""Seconds in which a program must read something; disks in trouble retry for minutes."""
NOTHING = bytes(1024)
"""The archive without a member: two zero blocks."""
_LOOK = 0.2
_DRAINS = 0.002
"""Seconds after which it is looked again whether a pipe was read to its end, which no call tells.
"""

Open = Callable[[], AbstractContextManager[IO[bytes]]]
Chunk = bytes | memoryview
Back = Callable[[memoryview], None]
"""Takes a chunk back that was lent."""


@dataclass(frozen=True)
class Cuts:
    """Where an archive may be taken apart.

    `heads` says for each chunk before `tail` whether it begins with a member; the chunks from
    `tail` on must come last, and in order. `lanes` is how many extractors there may be.

    `attributes` are those that some member has, None if that is not known. `ahead` reads the chunks
    of the tail one more time, before the others; it is there if all directories are in them.
    """

    heads: tuple[bool, ...]
    tail: int
    lanes: int = field(default_factory=lambda: min(MOST, os.cpu_count() or 1))
    attributes: frozenset[Attribute] | None = None
    ahead: Callable[[], Iterable[Chunk]] | None = None

    @classmethod
    def of(
        cls, manifest: Manifest, read: Callable[[range], Iterable[Chunk]] | None = None
    ) -> Cuts | None:
        """Return the cuts of a tree; None if the order of its members matters.

        `read` yields chunks by their numbers.
        """
        tree, count = manifest.tree, len(manifest.chunks)
        if tree is None or not tree.tail:
            return None
        tail, known = tree.tail, tree.attributes
        heads = tuple(not chunk.continues for chunk in manifest.chunks[:tail])
        return cls(
            heads,
            tail,
            attributes=None if known is None else frozenset(known),
            ahead=(lambda: read(range(tail, count))) if read and tree.parents else None,
        )


class StoppedError(Exception):
    """Another extractor failed, so this one is to end."""


def feed(
    pipe: IO[bytes],
    content: Chunk,
    patience: float = PATIENCE,
    stopped: threading.Event | None = None,
    put: Callable[[memoryview], int] | None = None,
) -> None:
    """Write all of `content` to the program behind `pipe`.

    `put` is to be used instead of write(2). Raises `ImageError` when it reads nothing for
    `patience` seconds, `StoppedError` soon after `stopped` is set, and `BrokenPipeError` when it
    has ended.
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
                    done += put(left) if put else os.write(descriptor, left)
                until = time.monotonic() + patience
            except BlockingIOError:
                poll.poll(1000 * min(_LOOK, patience))
                if stopped is not None and stopped.is_set():
                    raise StoppedError from None
                if time.monotonic() > until:
                    raise ImageError(f"tar has read nothing for {patience:g} s") from None


class Shards:
    """Extractors, fed by `put`. A context: they end when it is left normally, and are killed else.

    `open` starts one, at once, and yields its stdin. What it raises on
    leaving is raised here, the first failure of all before any other, and stops the others. Chunks
    are lent if there is `back`, which takes each of them back from a thread of its own.
    """

    def __init__(
        self, open: Open, lanes: int, patience: float = PATIENCE, back: Back | None = None
    ) -> None:
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._open, self._patience, self._back = open, patience, back
        self._lanes = [_Lane(HELD if back else WAITING) for _ in range(lanes)]
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

        If it is not lent, the chunk is free for other uses when this returns.
        """
        if self._back is not None and isinstance(chunk, memoryview):
            try:
                self._room(fresh=head)
            except BaseException:
                self._back(chunk)
                raise
            self._give(chunk)
            return
        with memoryview(chunk) as view:
            for start in range(0, len(view), PIECE):
                with view[start : start + PIECE] as piece:
                    self._room(fresh=head and not start)
                    free = self._current.free
                    buffer = free.pop() if free else bytearray(PIECE)
                    buffer[: len(piece)] = piece
                    self._give(memoryview(buffer)[: len(piece)])

    def _give(self, view: memoryview) -> None:
        with self._changed:
            self._current.waiting.append(view)
            self._current.room -= 1
            self._changed.notify_all()

    def _room(self, *, fresh: bool) -> None:
        """Wait for room in the current lane, or in the lane with most of it."""
        with self._changed:
            while True:
                self._check()
                if fresh:
                    self._current = max(self._lanes, key=lambda lane: lane.room)
                if self._current.room:
                    return
                self._changed.wait()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _guarded(self, lane: _Lane) -> None:
        try:
            with self._open() as pipe:
                view = self._next(lane)
                if view is None:  # tar calls it an error to get nothing at all
                    feed(pipe, NOTHING, self._patience, self._stopped)
                spliced = Spliced(pipe.fileno())
                while view is not None:
                    lent = self._back is not None and len(view) >= LENT_FROM
                    end = spliced.given + (len(view) if lent else 0)
                    lane.held.append((view, end))  # at once: it comes back whatever happens
                    put = spliced.put if lent else spliced.write
                    feed(pipe, view, self._patience, self._stopped, put)
                    self._read(lane, spliced, len(view))
                    view = self._next(lane, spliced)
        except BaseException as error:  # raised again in the thread that feeds us
            with self._changed:
                self._failure = self._failure or error
                self._stopped.set()
                self._changed.notify_all()
        finally:  # the program has ended, or what it reads does not count any more
            with self._changed:
                lane.held.extend((view, 0) for view in lane.waiting)
                lane.waiting.clear()
            self._return(lane, upto=None)

    def _read(self, lane: _Lane, spliced: Spliced, length: int = 0) -> None:
        """Take back what the program has read; `length` more bytes were given to it."""
        with self._changed:
            lane.fed += length
        self._return(lane, spliced.read if self._back else None)

    def _return(self, lane: _Lane, upto: int | None) -> None:
        """Take back what ends at `upto` bytes or before, or everything."""
        count = 0
        while lane.held and (upto is None or lane.held[0][1] <= upto):
            view, _ = lane.held.popleft()
            count += 1
            if self._back is not None:
                self._back(view)
            else:
                lane.free.append(view.obj)
        if count:
            with self._changed:
                lane.room += count
                self._changed.notify_all()

    def _next(self, lane: _Lane, spliced: Spliced | None = None) -> memoryview | None:
        while True:
            with self._changed:
                if not (lane.waiting or lane.ended or self._stopped.is_set()):
                    # What is still in the pipe is awaited by somebody, perhaps by who feeds us.
                    self._changed.wait(_DRAINS if lane.held else None)
                if self._stopped.is_set():
                    raise StoppedError
                if lane.waiting:
                    return lane.waiting.popleft()
                if lane.ended:
                    return None
            if spliced is not None:
                self._read(lane, spliced)


@dataclass(eq=False)
class _Lane:
    """What waits for one extractor and what it holds, with where each ends in its stream.

    `room` is for so many more of them, `free` are buffers of ours for copies.
    """

    room: int
    free: list[Any] = field(default_factory=list)
    waiting: deque[memoryview] = field(default_factory=deque)
    held: deque[tuple[memoryview, int]] = field(default_factory=deque)
    fed: int = 0
    ended: bool = False
