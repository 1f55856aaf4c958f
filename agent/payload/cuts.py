"""Where to cut a tar stream into chunks: at its members, so that what did not change stays whole.

A chunk ends where a member begins. Which member that is among those within reach, their names
decide (the smallest digest wins), not how much came before: behind a change the cuts soon fall into
step with those of the older image again. A member as long as a few chunks begins one of its own and
is cut at fixed distances from its beginning. Measured against others in
docs/decisions/0011-cuts-by-name.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from agent.payload.frames import Content, Piece


def digest64(name: bytes) -> int:
    """Return a number that stands for a name: the same everywhere, and as good as never shared."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big")


class Cutter:
    """Push the stream in with `mark` and `feed`, end with `flush`, and draw pieces from `taken`.

    No piece is longer than `chunk_size`. Where the cuts fall depends on the marks and the stream
    alone, not on the lengths in which it is fed. Holds at most one chunk besides what `taken` has
    not been asked for.
    """

    def __init__(self, chunk_size: int) -> None:
        self._most = chunk_size
        self._least, self._usual = chunk_size // 8, chunk_size // 2
        self._held = bytearray()
        self._marks: list[tuple[int, int]] = []
        self._inside = False
        self._pieces: list[Piece] = []
        self.total = 0
        """Bytes fed so far."""
        self.count = 0
        """Pieces cut so far."""

    def mark(self, priority: int, size: int) -> None:
        """Say that a member of `size` bytes begins here; where `priority` is low, cut rather."""
        if self._held and (len(self._held) > self._usual or size >= self._usual):
            self._cut(len(self._held), inside=False)
        if self._held:
            self._marks.append((len(self._held), priority))
        else:
            self._inside = False

    def feed(self, content: Content) -> None:
        """Take the next bytes of the stream; they may be changed afterwards."""
        view = memoryview(content)
        self.total += len(view)
        while view:
            if len(self._held) == self._usual:
                self._choose()
            elif len(self._held) == self._most:
                self._cut(self._most, inside=True)
            limit = self._usual if len(self._held) < self._usual else self._most
            step = min(limit - len(self._held), len(view))
            self._held += view[:step]
            view = view[step:]

    def flush(self) -> None:
        """End a piece here, at a member; what comes next begins another."""
        if self._held:
            self._cut(len(self._held), inside=False)

    def taken(self) -> Iterator[Piece]:
        """Yield the pieces that were cut since this was called last."""
        pieces, self._pieces = self._pieces, []
        yield from pieces

    def _choose(self) -> None:
        """Cut at the best mark within reach, if there is one."""
        marks = [mark for mark in self._marks if mark[0] >= self._least]
        if marks:
            position, _ = min(marks, key=lambda mark: mark[1])
            self._cut(position, inside=False)

    def _cut(self, position: int, *, inside: bool) -> None:
        self._pieces.append(Piece(self._held[:position], continues=self._inside))
        del self._held[:position]
        self._marks = [(at - position, first) for at, first in self._marks if at > position]
        self._inside = inside
        self.count += 1
