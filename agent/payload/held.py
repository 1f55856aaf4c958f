"""Members that are held back while an archive is rewritten: the headers of links and directories.

In memory up to 16 MiB, then in a file that has no name; besides some 40 bytes of memory for each
link and 150 for each directory.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.payload.frames import Content

_IN_MEMORY = 16 << 20


class HeldBack:
    """Members without content, kept in the order given. A context that lets go of them."""

    def __init__(self, work: Path) -> None:
        # A spooled file is what this context closes.
        self._spool: tempfile.SpooledTemporaryFile[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            _IN_MEMORY, dir=str(work)
        )
        self._size = 0
        # For each member: where it is here, its length, how many bytes of what was not held back
        # came before it, and its priority as a place to cut.
        self._rows = tuple(array("Q") for _ in range(4))
        self._links = array("Q")
        self._directories: list[tuple[bytes, int]] = []

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
        """Hold a hard link that comes when `after` bytes of the others have."""
        self._links.append(self._add(header, after, priority))

    def directory(self, header: Content, *, after: int, priority: int, name: bytes) -> None:
        """Hold a directory, in the same way."""
        self._directories.append((name.replace(b"/", b"\0"), self._add(header, after, priority)))

    def tail(self) -> Iterator[tuple[bytes, int]]:
        """Yield headers and priorities: the links as given, then the directories.

        Those go by name, with all that lies below one next to it: GNU tar sets the times of a
        directory when it comes to one that lies elsewhere.
        """
        starts, lengths, _, priorities = self._rows
        self._directories.sort()
        for number in chain(self._links, (number for _, number in self._directories)):
            yield self._read(starts[number], lengths[number]), priorities[number]

    def woven(self, others: Iterable[Content]) -> Iterator[Content]:
        """Yield the archive as it was, `others` being all that was not held back."""
        starts, lengths, afters, _ = self._rows
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

    def _add(self, header: Content, after: int, priority: int) -> int:
        self._spool.seek(self._size)
        self._spool.write(header)
        row = (self._size, len(header), after, priority)
        for column, value in zip(self._rows, row, strict=True):
            column.append(value)
        self._size += len(header)
        return len(self._rows[0]) - 1

    def _read(self, start: int, length: int) -> bytes:
        self._spool.seek(start)
        return self._spool.read(length)
