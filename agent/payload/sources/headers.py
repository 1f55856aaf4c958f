"""The members of a tar stream with their header blocks as they came, and headers changed.

`agent.payload.tar` decides what a sound archive is; here the bytes are kept beside, so that a
member can be passed on, left out, or given another name. Names are bytes: a file system does not
ask for UTF-8, and two names must not become one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO

from agent.payload.sources.ports import refused
from agent.payload.tar import BLOCK, Member, TarError, TarReader, Type

END = bytes(2 * BLOCK)
"""The end of an archive."""
_PIECE = 1 << 20
_NAME, _LINK, _PREFIX = slice(0, 100), slice(157, 257), slice(345, 500)
_POSIX = b"ustar\0"

Records = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Header:
    """A member's header, taken apart.

    `path` is relative, without `.` and empty parts, empty for the root; `link` is so for a hard
    link and as given for a symbolic link. `size` is the number of bytes that follow, without what
    pads them. `records` are its pax records, `block` and `more` the ustar block and the blocks of a
    sparse map after it, `raw` all of the header as it came.
    """

    path: bytes
    link: bytes
    type: Type
    size: int
    records: Records
    block: bytes
    more: bytes
    raw: bytes

    def named(self, path: bytes, link: bytes | None = None) -> Header:
        """Return it with another path, and another target if `link` is given.

        The raw header is kept if nothing changes.
        """
        link = self.link if link is None else link
        if (path, link) == (self.path, self.link):
            return self
        sparse = any(key == b"GNU.sparse.name" for key, _ in self.records)
        dropped = {b"path", b"linkpath", b"GNU.sparse.name"}
        records = [record for record in self.records if record[0] not in dropped]
        shown = path + b"/" if self.type == "directory" else path
        block = bytearray(self.block)
        if block[257:263] == _POSIX:  # in GNU's own format there are times in its place
            block[_PREFIX] = bytes(155)
        if sparse:
            records.append((b"GNU.sparse.name", shown))
        elif len(shown) > 100:
            records.append((b"path", shown))
        block[_NAME] = shown[:100].ljust(100, b"\0")
        if len(link) > 100:
            records.append((b"linkpath", link))
        block[_LINK] = link[:100].ljust(100, b"\0")
        ustar = _summed(block)
        raw = _extended(tuple(records), ustar) + ustar + self.more
        changed = replace(self, path=path, link=link, records=tuple(records))
        return replace(changed, block=ustar, raw=raw)

    def steady(self) -> Header:
        """Return it without the number of the tar process, which GNU tar gives sparse files."""
        if not any(key == b"GNU.sparse.name" for key, _ in self.records):
            return self
        records = tuple(record for record in self.records if record[0] != b"path")
        block = bytearray(self.block)
        block[_PREFIX] = bytes(155)
        name = b"GNUSparseFile.0/" + self.path.rpartition(b"/")[2]
        block[_NAME] = name[:100].ljust(100, b"\0")
        ustar = _summed(block)
        raw = _extended(records, ustar) + ustar + self.more
        return replace(self, records=records, block=ustar, raw=raw)


class Members:
    """Read a tar stream member by member, to its end; `where` is for messages.

    After each header `content` may be read, or else it is skipped; with `seek` it is not even
    read. Raises `PlanError` where the archive is unsound; what the stream itself raises comes
    through.
    """

    def __init__(self, stream: IO[bytes], where: str, *, seek: bool = False) -> None:
        self._stream, self._where, self._seek = stream, where, seek
        self._met: list[Member] = []
        self._reader = TarReader(self._met.append, lambda path: 0)
        self._left = 0

    def __iter__(self) -> Iterator[Header]:
        try:
            while header := self._next():
                yield header
                if self._seek:
                    self._stream.seek(self._left, io.SEEK_CUR)
                    self._reader = TarReader(self._met.append, lambda path: 0)
                    self._left = 0
                for _ in self._content():
                    pass
        except TarError as error:
            raise refused(self._where, str(error)) from None

    def content(self) -> Iterator[bytes]:
        """Yield what is left of this member's content and padding."""
        try:
            yield from self._content()
        except TarError as error:
            raise refused(self._where, str(error)) from None

    def _content(self) -> Iterator[bytes]:
        while self._left:
            piece = self._stream.read(min(self._left, _PIECE))
            if not piece:
                self._reader.close()  # raises: this is the middle of a member
            self._left -= len(piece)
            self._reader.feed(piece)
            yield piece

    def _next(self) -> Header | None:
        blocks = bytearray()
        while not self._met:
            block = self._stream.read(BLOCK)
            self._reader.feed(block)
            if len(block) < BLOCK:
                self._reader.close()  # raises unless the archive's end was seen
                return None
            blocks += block
        member = self._met.pop()
        self._left = -(-member.size // BLOCK) * BLOCK
        return _taken_apart(bytes(blocks), member)


def _taken_apart(blocks: bytes, member: Member) -> Header:
    """Take the blocks of a header that `TarReader` found sound; keep what says who the member is.

    Volume labels and comments for the whole archive are left out. Other global records would have
    to be given to each member, and nobody writes them.
    """
    records: list[tuple[bytes, bytes]] = []
    long: dict[bytes, bytes] = {}
    raw, at = b"", 0
    while (kind := blocks[at + 156 : at + 157]) in (b"x", b"X", b"g", b"L", b"K", b"V"):
        size = 0 if kind == b"V" else _number(blocks[at + 124 : at + 136])
        after = at + BLOCK + -(-size // BLOCK) * BLOCK
        body = blocks[at + BLOCK : at + BLOCK + size]
        if kind in b"xX":
            records += _records(body)
        elif kind in b"LK":
            long[kind] = body.rstrip(b"\0")
        elif kind == b"g" and any(key != b"comment" for key, _ in _records(body)):
            raise TarError("has a global pax header, which is not taken here")
        if kind == b"V":
            records, long, raw = [], {}, b""
        elif kind != b"g":
            raw += blocks[at:after]
        at = after
    block, more = blocks[at : at + BLOCK], blocks[at + BLOCK :]
    pax = dict(records)
    name = _ustar_name(block)
    for value in (long.get(b"L"), pax.get(b"path"), pax.get(b"GNU.sparse.name")):
        name = name if value is None else value
    link = _text(block[_LINK])
    for value in (long.get(b"K"), pax.get(b"linkpath")):
        link = link if value is None else value
    if member.type == "hardlink":
        link = normal(link)
    path, kept = normal(name), tuple(records)
    if path.decode(errors="replace") != member.path:  # two readers must not see two archives
        raise TarError(f"{member.path}: has a header that could also be read as {path!r}")
    return Header(path, link, member.type, member.size, kept, block, more, raw + block + more)


def normal(name: bytes) -> bytes:
    """Return a path without `.` and empty parts."""
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def _records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Take `LENGTH KEY=VALUE` apart; `TarReader` has looked at the lengths."""
    while body.strip(b"\0"):
        digits = body[:20].partition(b" ")[0]
        key, _, value = body[len(digits) + 1 : int(digits) - 1].partition(b"=")
        yield key, value
        body = body[int(digits) :]


def _extended(records: Records, ustar: bytes) -> bytes:
    """Return the blocks of a pax header, or nothing if there is nothing to say."""
    body = b"".join(_record(key, value) for key, value in records)
    if not body:
        return b""
    block = bytearray(BLOCK)
    block[_NAME] = b"PaxHeaders/" + _text(ustar[_NAME])[:80].strip(b"/").ljust(89, b"\0")
    block[100:148] = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(body) + ustar[136:148]
    block[156:157] = b"x"
    block[257:265] = _POSIX + b"00"
    padding = bytes(-len(body) % BLOCK)
    return _summed(block) + body + padding


def _record(key: bytes, value: bytes) -> bytes:
    """Write one record; its length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def _summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _ustar_name(block: bytes) -> bytes:
    name, prefix = _text(block[_NAME]), _text(block[_PREFIX])
    return prefix + b"/" + name if prefix and block[257:263] == _POSIX else name
