"""Directories made ahead of several tars, because GNU tar cannot make one that another just made.

A tar that finds no directory for a file makes it. If somebody else has made it by then, tar gives
the file up (maybe_recoverable in extract.c of 1.34 and 1.35), and two tars that work on neighbours
meet in every new directory. So each is there before a tar sees the first file in it.

Nothing hangs on the names that are read here but that, so this reader does not judge an archive,
as `agent.payload.tar` does in eight times as long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from agent.payload.tar import BLOCK, HEADER_LIMIT

MODE = 0o755
"""What tar gives to a directory that the archive does not name; the others get their own later."""
REMEMBERED = 4096
"""Directories known to be there; so many, because memory is not to grow with the image."""
_KEYS = (b"path", b"GNU.sparse.name", b"size")
_FOLDER = b"5"
_WITH_CONTENT = b"\x0007S"
_SKIPPED, _PAX, _LONG = b"gKV", b"xX", b"L"
_NO_END = 1 << 62


def with_parents(chunks: Iterable[bytes | memoryview], root: Path) -> Iterator[bytes | memoryview]:
    """Yield the chunks of an archive, the directories of each member being there before.

    Never leaves `root`, whatever links are in it by then: where something else is in the place of a
    directory nothing is made, and tar will say what it thinks of that.
    """
    made: set[bytes] = set()

    def see(name: bytes) -> None:
        parent = name.rpartition(b"/")[0]
        if parent not in made:
            if len(made) == REMEMBERED:
                made.clear()
            made.add(parent)
            _make(top, parent)

    reader = Names(see)
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for chunk in chunks:
            reader.feed(chunk)
            yield chunk
    finally:
        os.close(top)


def make_directories(archive: Iterable[bytes | memoryview], root: Path) -> None:
    """Make every directory that has a member in an archive.

    Nothing but directories may lie below `root`, so no link can lead out of it.
    """

    def make(name: bytes) -> None:
        path = name.lstrip(b"/")
        if b".." in path.split(b"/"):
            return
        try:
            os.mkdir(path, MODE, dir_fd=top)
        except FileNotFoundError:  # it came before the one above it, or is the root itself
            _make(top, path)
        except (OSError, ValueError):  # it is there; else tar will say what it thinks of that
            return

    reader = Names(lambda name: None, make)
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for content in archive:
            reader.feed(content)
    finally:
        os.close(top)


def _make(top: int, path: bytes) -> None:
    """Make a directory and those above it, below the one that is open as `top`."""
    with ExitStack() as stack, suppress(OSError, ValueError):
        above = top
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            if name == b"..":
                return
            made = False
            with suppress(FileExistsError):
                os.mkdir(name, MODE, dir_fd=above)
                made = True
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            above = os.open(name, flags, dir_fd=above)
            stack.callback(os.close, above)
            if made:
                _drop_inherited(above)


def _drop_inherited(directory: int) -> None:
    """Take off the ACLs that a default ACL above gave, as tar does with those that it makes."""
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with suppress(OSError):  # none, or a file system without ACLs
            os.removexattr(f"/proc/self/fd/{directory}", name)


class Names:
    """Calls `see` with the name of each member of a tar stream, when its header has been fed.

    Calls `directory` too if it is one.
    """

    def __init__(
        self,
        see: Callable[[bytes], None],
        directory: Callable[[bytes], None] = lambda name: None,
    ) -> None:
        self._see, self._directory = see, directory
        self._held = bytearray()
        self._want, self._skip = BLOCK, 0
        self._next: Callable[[bytes], None] = self._header
        self._said: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes, in pieces of any size."""
        with memoryview(chunk) as view:
            at = 0
            while at < len(view):
                if self._skip:
                    step = min(self._skip, len(view) - at)
                    self._skip -= step
                else:
                    step = min(self._want - len(self._held), len(view) - at)
                    self._held += view[at : at + step]
                    if len(self._held) == self._want:
                        found, self._held = bytes(self._held), bytearray()
                        self._read(found)
                at += step

    def _read(self, blocks: bytes) -> None:
        try:
            self._next(blocks)
        except ValueError:  # no archive: tar has better words for that
            self._skip = _NO_END

    def _header(self, block: bytes) -> None:
        kind = block[156:157]
        if not block[0] and kind == b"\0":  # the end of the archive
            return
        size = _number(block[124:136])
        if kind in _SKIPPED:
            self._skip = _padded(size)
        elif size > HEADER_LIMIT and kind in _PAX + _LONG:
            self._skip = _NO_END
        elif size and kind in _PAX + _LONG:
            self._want = _padded(size)
            self._next = lambda body: self._extended(kind, body[:size])
        else:
            self._member(block, kind, size)

    def _extended(self, kind: bytes, body: bytes) -> None:
        if kind in _LONG:
            self._said.setdefault(b"path", body.rstrip(b"\0"))
        elif any(key + b"=" in body for key in _KEYS):
            self._said.update(_records(body))
        self._want, self._next = BLOCK, self._header

    def _member(self, block: bytes, kind: bytes, size: int) -> None:
        said, self._said = self._said, {}
        name = said.get(b"GNU.sparse.name") or said.get(b"path") or _name(block)
        self._see(name.rstrip(b"/"))
        if kind == _FOLDER:
            self._directory(name.rstrip(b"/"))
        if kind in _WITH_CONTENT:
            self._skip = _padded(int(said.get(b"size", size)))
        if kind == b"S" and block[482]:
            content, self._skip, self._next = self._skip, 0, lambda more: self._map(more, content)

    def _map(self, block: bytes, content: int) -> None:
        """Pass over a block of an old sparse file's map; the last one has a zero there."""
        if not block[504]:
            self._skip, self._next = content, self._header


def _records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    while body.strip(b"\0"):
        digits = body[:20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, _, value = body[len(digits) + 1 : length - 1].partition(b"=")
        if key in _KEYS:
            yield key, value
        body = body[length:] if length else b""


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
