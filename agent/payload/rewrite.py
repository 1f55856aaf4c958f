"""Rewrite a tar so that it can be unpacked side by side: hard links and directories go last.

Streaming: what may stay where it is goes through, headers of links and directories are held back
and appended. Every member's blocks are kept as they are, so the rewritten archive has the same
length and is unpacked to the same tree; `agent.payload.order` says when it would not be, and then
the archive is left as it came. That may show only after most of it went by, and a pipe cannot be
read again: `Rewriting.original` puts together again what was read, from what was made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.payload.contents import Tree
from agent.payload.cuts import Cutter, digest64
from agent.payload.frames import Content, Piece
from agent.payload.held import HeldBack
from agent.payload.order import Order
from agent.payload.survey import Survey, wanted
from agent.payload.tar import Member, TarReader


class Rewriting:
    """One pass over one archive. A context that lets go of what is held back.

    `move` says whether members are to be moved if they may be. After `pieces` has ended, either
    `reason` is empty and all of the archive has been yielded, the tail from piece `tail` on; or
    `reason` says why members may not be moved, and `original` yields what was read so far.
    """

    def __init__(self, work: Path, chunk_size: int, *, move: bool, overlay: bool | None) -> None:
        self.survey = Survey()
        self.reason = ""
        self.tail: int | None = None
        self._chunk_size, self._move, self._overlay = chunk_size, move, overlay
        self._order = Order()
        self._held = HeldBack(work)
        self._cutter = Cutter(chunk_size)
        self._reader = TarReader(self._see, wanted)
        self._members: list[Member] = []
        self._done = 0
        self._pending = b""
        self._zeros = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.__exit__(kind, error, traceback)

    def pieces(self, archive: Iterable[Content]) -> Iterator[Piece]:
        """Yield the chunks of the archive; raise `TarError` if it is not one sound archive."""
        for content in archive:
            self._take(content)
            yield from self._cutter.taken()
            if self._move and self._doubtful():
                break
        else:
            self._reader.close()
            if not self._move or not self._doubtful_at_end():
                yield from self._end()
        self._cutter.flush()
        yield from self._cutter.taken()

    def original(self, pieces: Iterable[Content]) -> Iterator[Content]:
        """Yield what was read of the archive, `pieces` being what was made of it."""
        yield from self._held.woven(pieces)
        yield self._pending
        yield from _zeros(self._zeros, self._chunk_size)

    @property
    def dated(self) -> int:
        """Members with times that differ between equal builds."""
        return self._reader.dated

    @property
    def tree(self) -> Tree:
        """What the archive holds and how it may be unpacked, once all of it has been yielded."""
        found = {
            "tail": self.tail,
            "attributes": tuple(sorted(self._reader.attributes)),
            "parents": True if self.tail is not None and self._order.parents else None,
        }
        return self.survey.tree().model_copy(update=found)

    def _see(self, member: Member) -> None:
        self.survey.see(member)
        self._members.append(member)
        if self._move:
            self._order.see(member)

    def _doubtful(self) -> bool:
        self.reason = self._order.reason
        if self._reader.spoke_for_all:
            self.reason = self.reason or "has a global header, which speaks for what follows it"
        return bool(self.reason)

    def _doubtful_at_end(self) -> bool:
        self._order.close()
        overlay = self.survey.os() is None if self._overlay is None else self._overlay
        if overlay and not self._order.reason:
            self.reason = "is an overlay, which meets what is already there"
            return True
        return self._doubtful()

    def _take(self, content: Content) -> None:
        """Pass on, or hold back, all bytes of which it is known what they belong to."""
        self._reader.feed(content)
        view = memoryview(self._pending + content) if self._pending else memoryview(content)
        begin = self._done
        members, self._members = self._members, []
        for member in members:
            start, end = member.place.start, member.place.end
            self._cutter.feed(view[self._done - begin : start - begin])
            if self._move and member.type in {"hardlink", "directory"}:
                self._hold(member, view[start - begin : end - begin])
                self._done = end
            else:
                self._cutter.mark(digest64(member.place.name), end - start)
                self._done = start
        end_of_archive = self._reader.end
        known = self._reader.decided if end_of_archive is None else end_of_archive
        self._cutter.feed(view[self._done - begin : max(0, known - begin)])
        self._done = max(known, self._done)
        rest = view[self._done - begin :]
        if end_of_archive is None:
            self._pending = bytes(rest)
        else:
            self._zeros += len(rest)
            self._pending, self._done = b"", self._done + len(rest)

    def _hold(self, member: Member, header: memoryview) -> None:
        name, after = member.place.name, self._cutter.total
        if member.type == "hardlink":
            self._held.link(header, after=after, priority=digest64(name))
        else:
            self._held.directory(header, after=after, priority=digest64(name), name=name)

    def _end(self) -> Iterator[Piece]:
        """Yield the tail, if members may be moved, and the blocks that end the archive."""
        if self._move:
            self._cutter.flush()
            self.tail = self._cutter.count
            for header, priority in self._held.tail():
                self._cutter.mark(priority, len(header))
                self._cutter.feed(header)
                yield from self._cutter.taken()
        for zeros in _zeros(self._zeros, self._chunk_size):
            self._cutter.mark(0, len(zeros))
            self._cutter.feed(zeros)
            yield from self._cutter.taken()


def _zeros(size: int, most: int) -> Iterator[bytes]:
    zeros = bytes(min(size, most))
    for start in range(0, size, most):
        yield zeros[: size - start]
