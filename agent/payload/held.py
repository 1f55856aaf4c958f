"""Members that are held back while an archive is rewritten: the headers of links and directories.

In memory up to 16 MiB, then in a file that has no name; 40 bytes of memory for each besides.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.payload.frames import Content

_IN_MEMORY = 16 << 20
_LINK = 0


class HeldBack:
    """Members without content, kept in the order given. A context that lets go of them."""

    def __init__(self, work: Path) -> None:
        # A spooled file is what this context closes.
        self._spool: tempfile.SpooledTemporaryFile[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            _IN_MEMORY, dir=str(work)
        )
        self._size = 0
        # For each member: where it is here, its length, how many bytes of what was not held back
        # came before it, its priority as a place to cut, and its depth (from 1) or `_LINK`.
        self._rows = tuple(array("Q") for _ in range(5))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._spool.close()

    def link(self, header: Content, *, after: int, priority: int) -> None:
        self._add(header, after, priority, _LINK)

    def directory(self, header: Content, *, after: int, priority: int, depth: int) -> None:
        """Hold a directory that lies below `depth` others."""
        self._add(header, after, priority, depth + 1)

    def tail(self) -> Iterator[tuple[bytes, int]]:
        """Yield headers and priorities: the links, then the directories, parents first."""
        starts, lengths, _, priorities, depths = self._rows
        links = (number for number, depth in enumerate(depths) if depth == _LINK)
        directories = [number for number, depth in enumerate(depths) if depth != _LINK]
        for numbers in (links, sorted(directories, key=lambda number: depths[number])):
            for number in numbers:
                yield self._read(starts[number], lengths[number]), priorities[number]

    def woven(self, others: Iterable[Content]) -> Iterator[Content]:
        """Yield the archive as it was, `others` being all that was not held back."""
        starts, lengths, afters, _, _ = self._rows
        given, numbers = 0, iter(range(len(starts)))
        number = next(numbers, None)
        for content in others:
            with memoryview(content) as view:
                begin = 0
                while number is not None and afters[number] < given + len(view):
                    until = afters[number] - given
                    yield bytes(view[begin:until])
                    yield self._read(starts[number], lengths[number])
                    begin, number = until, next(numbers, None)
                yield bytes(view[begin:])
                given += len(view)
        while number is not None:
            yield self._read(starts[number], lengths[number])
            number = next(numbers, None)

    def _add(self, header: Content, after: int, priority: int, depth: int) -> None:
        self._spool.seek(self._size)
        self._spool.write(header)
        row = (self._size, len(header), after, priority, depth)
        for column, value in zip(self._rows, row, strict=True):
            column.append(value)
        self._size += len(header)

    def _read(self, start: int, length: int) -> bytes:
        self._spool.seek(start)
        return self._spool.read(length)
