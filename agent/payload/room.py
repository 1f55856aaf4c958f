"""Memory for frames under way, shared by threads, that never goes back and forth to the kernel.

Frames differ in length by a factor of a thousand. Memory for the longest in every thread would be
far too much, and memory that each thread gives back when it is done costs a fault for every page of
the next frame: a twentieth of all that an installation computes.
"""

from __future__ import annotations

import mmap
import threading
from bisect import insort
from dataclasses import dataclass
from typing import Self

from agent.payload.direct import pages

EACH = 5 << 18
"""Bytes of frames under way for each thread; those that did not compress have to queue."""


@dataclass(frozen=True)
class Piece:
    """Some memory of a room."""

    start: int
    end: int
    view: memoryview


class Room:
    """Pieces of one stretch of memory, each for one user at a time. Thread-safe."""

    def __init__(self, size: int, stopped: threading.Event) -> None:
        self._size, self._stopped = _whole(size), stopped
        self._memory = memoryview(pages(self._size))
        self._taken: list[tuple[int, int]] = []
        self._changed = threading.Condition()

    @classmethod
    def of(cls, threads: int, longest: int, stopped: threading.Event) -> Self:
        """Return one for so many at once, in which the longest frame has room in any case."""
        return cls(max(threads * EACH, longest), stopped)

    def take(self, length: int) -> Piece | None:
        """Wait for a piece of `length` bytes, at most all there are; None once `stopped`."""
        whole = _whole(length)
        with self._changed:
            while not self._stopped.is_set():
                start = self._gap(whole)
                if start is not None:
                    insort(self._taken, (start, start + whole))
                    return Piece(start, start + whole, self._memory[start : start + length])
                self._changed.wait()
        return None

    def give(self, piece: Piece) -> None:
        """Take back what `take` returned."""
        piece.view.release()
        with self._changed:
            self._taken.remove((piece.start, piece.end))
            self._changed.notify_all()

    def wake(self) -> None:
        """Have everybody look at `stopped`."""
        with self._changed:
            self._changed.notify_all()

    def _gap(self, length: int) -> int | None:
        at = 0
        for begin, end in self._taken:
            if begin - at >= length:
                return at
            at = end
        return at if self._size - at >= length else None


def _whole(length: int) -> int:
    return -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
