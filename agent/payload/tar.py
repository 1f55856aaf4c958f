"""Read the members of a tar stream as it goes by, without keeping it.

Reads ustar, pax, GNU and V7 headers the way GNU tar does, since that is what unpacks them later. An
archive that readers could understand differently is refused: truncated, with something after its
end, with a climbing name, a bad checksum, or a size where no content belongs.

Sources: pax(1) of POSIX.1-2017, "ustar Interchange Format" and "pax Header Block"; tar.5 of
libarchive; the GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

BLOCK = 512
HEADER_LIMIT = 16 << 20
"""Most bytes of one extended header; extended attributes live there, 64 KiB each on Linux."""
PATH_LIMIT, NAME_LIMIT = 4095, 255  # PATH_MAX less its NUL, NAME_MAX of limits.h

Type = Literal["file", "directory", "symlink", "hardlink", "other"]

Attribute = Literal["acls", "selinux", "xattrs"]
"""What `tar` needs an option of that name for, to write it or to set it."""

_TYPES: Mapping[bytes, Type] = {
    b"\0": "file",
    b"0": "file",
    b"7": "file",  # contiguous, which is a plain file to everybody
    b"S": "file",  # GNU sparse
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "other",
    b"4": "other",
    b"5": "directory",
    b"6": "other",
}
_PLAIN = frozenset({b"\0", b"0", b"7"})
_DEVICES: Mapping[bytes, str] = {b"3": "is a character device", b"4": "is a block device"}
_CAPABILITY = "SCHILY.xattr.security.capability"
_TIMES = frozenset({"atime", "ctime"})
_ATTRIBUTES: Mapping[str, Attribute] = {
    "SCHILY.acl.": "acls",
    "RHT.security.selinux": "selinux",
    "SCHILY.xattr.": "xattrs",
}
_DEFAULT_ACL = frozenset({"SCHILY.acl.default", "SCHILY.xattr.system.posix_acl_default"})
_ZERO = bytes(BLOCK)


class TarError(ValueError):
    """The archive cannot be taken; the message says which member and why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member lies in the archive, and what counts when it is moved.

    Bytes from `start` (its first extended header) to `end` (its last padding). `name` and, for a
    hard link, `link` are normalised as `Member.path` but not decoded. `gives` says that it is a
    directory that hands on its group or an ACL to what is made in it.
    """

    start: int = 0
    end: int = 0
    name: bytes = b""
    link: bytes = b""
    gives: bool = False


_NOWHERE = Place()


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `path` is relative, without `.` and empty parts; the root itself is ``.

    `size` is the bytes of content in the archive (a sparse file's holes are not), `head` the first
    bytes of the content, as many as were asked for. `link` is normalised for a hard link, as given
    for a symbolic link. `privilege` says what could make a user root, such as
    ``has set-id bits``, or nothing.
    """

    path: str
    type: Type
    size: int
    mtime: int
    link: str
    head: bytes
    privilege: str = ""
    place: Place = field(default=_NOWHERE, compare=False)


class TarReader:
    """Push the archive in with `feed`, in pieces of any size, and end with `close`.

    `report` is called once for each member, in order. `wanted` says for a path how many bytes of
    its content are to be kept for `Member.head`.
    """

    def __init__(self, report: Callable[[Member], None], wanted: Callable[[str], int]) -> None:
        self._report = report
        self._wanted = wanted
        self._held = bytearray()
        self._want = BLOCK
        self._next: Callable[[bytes], None] = self._header
        self._skip = 0
        self._ended = False
        self._at = self._start = self._zeros = 0
        self._pax: dict[str, bytes] = {}
        self._global: dict[str, bytes] = {}
        self._name: bytes | None = None
        self._link: bytes | None = None
        # Bytes of content, and what makes the member of its head and its end.
        self._member: tuple[int, Callable[[bytes, int], Member]] | None = None
        self.spoke_for_all = False
        """Whether there was a global pax header."""
        self.dated = 0
        """Members with times of access or of change, which differ between equal builds."""
        self.attributes = set[Attribute]()
        """What members have beyond owner, mode and times."""

    @property
    def decided(self) -> int:
        """Bytes of the archive, from its start, of which it is known what they belong to."""
        return min(self._start, self._at)

    @property
    def end(self) -> int | None:
        """Where the zero blocks begin that end the archive; None before they were seen."""
        return self._zeros if self._ended else None

    def feed(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the archive; raise `TarError` where it is wrong."""
        view = memoryview(piece)
        while view and not self._ended:
            if self._skip:
                step = min(self._skip, len(view))
                self._skip -= step
            else:
                step = min(self._want - len(self._held), len(view))
                self._held += view[:step]
            self._at += step
            view = view[step:]
            if not self._skip and len(self._held) == self._want:
                block, self._held = bytes(self._held), bytearray()
                self._next(block)
        if view.nbytes and view.tobytes().count(0) != view.nbytes:
            raise TarError(f"has more after its end at byte {self._at}: two archives in one?")

    def close(self) -> None:
        """Say that there is no more; raise `TarError` if there should be."""
        if self._ended:
            return
        between = self._next in (self._header, self._end) and not (self._skip or self._held)
        if not between or self._pax or self._name:
            raise TarError(f"ends at byte {self._at} in the middle of a member")
        raise TarError(f"ends at byte {self._at} without the zero block that ends an archive")

    def _expect(self, size: int, then: Callable[[bytes], None]) -> None:
        self._want, self._next = size, then

    def _header(self, block: bytes) -> None:
        if block == _ZERO:
            self._expect(BLOCK, self._end)
            return
        self._check_sum(block)
        kind, size = block[156:157], self._size(block)
        if kind in b"xgXLK":
            if size > HEADER_LIMIT or self._at - self._start > 2 * HEADER_LIMIT:
                raise TarError(f"has an extended header of {size} bytes at byte {self._at}")
            self._expect(_padded(size), lambda body: self._extended(kind, body[:size]))
            if not size:
                self._next(b"")
            return
        self._begin(block, kind, size)

    def _end(self, block: bytes) -> None:
        if block != _ZERO:
            raise TarError(f"has a lone zero block before byte {self._at}, where readers stop")
        if self._pax or self._name:
            raise TarError(f"ends at byte {self._at} after a header without its member")
        self._ended = True
        self._zeros = self._at - 2 * BLOCK

    def _extended(self, kind: bytes, body: bytes) -> None:
        if kind == b"L":
            self._name = body.rstrip(b"\0")
        elif kind == b"K":
            self._link = body.rstrip(b"\0")
        elif kind == b"g":
            self._global.update(self._records(body))
            self.spoke_for_all = True
        else:
            self._pax.update(self._records(body))
        self._expect(BLOCK, self._header)

    def _records(self, body: bytes) -> dict[str, bytes]:
        """Parse pax records, `LENGTH KEY=VALUE` and a newline; LENGTH counts all of the record."""
        records = {}
        while body.strip(b"\0"):
            digits, space, _ = body[:20].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record = body[len(digits) + 1 : length]
            key, equals, value = record.partition(b"=")
            if not (space and equals and len(body) >= length and record.endswith(b"\n")):
                raise TarError(f"has a broken pax header before byte {self._at}")
            records[key.decode(errors="replace")] = value[:-1]
            body = body[length:]
        return records

    def _begin(self, block: bytes, kind: bytes, size: int) -> None:
        pax = {**self._global, **self._pax}
        name = _first(pax.get("GNU.sparse.name"), pax.get("path"), self._name, _ustar_name(block))
        link = _first(pax.get("linkpath"), self._link, _text(block[157:257]))
        if kind == b"V":  # a volume label: a note to people
            self._pax, self._name, self._link = {}, None, None
            self._expect(BLOCK, self._header)
            return
        type_ = _TYPES.get(kind)
        shown = name.decode(errors="replace")
        if type_ is None:
            raise TarError(f"{shown}: is of type {kind!r}, which is no part of a file system")
        if kind in _PLAIN and name.endswith(b"/"):  # V7 had no type for directories
            type_ = "directory"
        if type_ == "hardlink":
            size = 0  # star and old GNU tar repeat the size of the file there, without content
        elif type_ != "file" and size:
            raise TarError(f"{shown}: is a {type_} with {size} bytes of content")
        raw = _normal(name)
        path = raw.decode(errors="replace")
        if not path and type_ != "directory":
            raise TarError(f"has a {type_} without a name before byte {self._at}")
        link = _normal(link) if type_ == "hardlink" else link
        target = link.decode(errors="replace")
        head = min(size, self._wanted(path)) if type_ == "file" else 0
        mtime = self._mtime(block, pax)
        privilege = self._privilege(block, pax, type_)
        gives = type_ == "directory" and self._gives(block, pax)
        self.dated += not _TIMES.isdisjoint(pax)
        self.attributes.update(_attributes(pax))
        start, link = self._start, link if type_ == "hardlink" else b""

        def member(head: bytes, end: int) -> Member:
            place = Place(start, end, raw, link, gives)
            return Member(path, type_, size, mtime, target, head, privilege, place)

        self._member = (size, member)
        self._pax, self._name, self._link = {}, None, None
        if kind == b"S" and block[482]:
            self._expect(BLOCK, lambda more: self._sparse(more, head))
        else:
            self._content(head)

    def _sparse(self, block: bytes, head: int) -> None:
        if block[504]:
            return
        self._content(head)

    def _content(self, head: int) -> None:
        assert self._member is not None
        self._skip = 0
        kept = _padded(head)
        self._expect(kept, lambda body: self._finish(body[:head], kept))
        if not kept:
            self._finish(b"", 0)

    def _finish(self, head: bytes, kept: int) -> None:
        assert self._member is not None
        (size, member), self._member = self._member, None
        self._skip = _padded(size) - kept
        self._start = self._at + self._skip
        self._report(member(head, self._start))
        self._expect(BLOCK, self._header)

    def _size(self, block: bytes) -> int:
        size = {**self._global, **self._pax}.get("size")
        if size is not None and block[156:157] not in b"xgXLK":
            if not size.isdigit():
                raise TarError(f"has a size of {size!r} in the pax header before byte {self._at}")
            return int(size)
        return self._number(block[124:136])

    def _privilege(self, block: bytes, pax: Mapping[str, bytes], type_: Type) -> str:
        if block[156:157] in _DEVICES:
            return _DEVICES[block[156:157]]
        if _CAPABILITY in pax:
            return "has capabilities"
        if type_ in {"directory", "symlink"}:  # set-id bits of a directory only hand on its group
            return ""
        return "has set-id bits" if self._number(block[100:108]) & 0o6000 else ""

    def _gives(self, block: bytes, pax: Mapping[str, bytes]) -> bool:
        return bool(self._number(block[100:108]) & 0o2000) or not _DEFAULT_ACL.isdisjoint(pax)

    def _mtime(self, block: bytes, pax: Mapping[str, bytes]) -> int:
        try:
            return int(float(pax["mtime"])) if "mtime" in pax else self._number(block[136:148])
        except (ValueError, OverflowError, TarError):
            return 0

    def _number(self, field: bytes) -> int:
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        try:
            return int(field.strip(b" \0") or b"0", 8)
        except ValueError:
            raise TarError(
                f"has the number {field!r} in the header before byte {self._at}"
            ) from None

    def _check_sum(self, block: bytes) -> None:
        rest = block[:148] + b" " * 8 + block[156:]
        try:
            stated = self._number(block[148:156])
        except TarError:
            stated = -1
        # Some old writers summed signed characters; GNU tar takes both.
        if stated != sum(rest) and stated != sum(struct.unpack("512b", rest)):
            raise TarError(f"is no tar archive, or damaged: bad header before byte {self._at}")


def _attributes(pax: Iterable[str]) -> Iterator[Attribute]:
    for key in pax:
        for prefix, attribute in _ATTRIBUTES.items():
            if key.startswith(prefix):
                yield attribute


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _first(*names: bytes | None) -> bytes:
    return next((name for name in names if name is not None), b"")


def _ustar_name(block: bytes) -> bytes:
    name = _text(block[:100])
    # GNU's magic is `ustar  `, and what is ustar's prefix holds times there.
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _normal(name: bytes) -> bytes:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise TarError(f"{name.decode(errors='replace')}: climbs with `..`")
    if len(name) > PATH_LIMIT or any(len(part) > NAME_LIMIT for part in parts):
        raise TarError(f"{name[:64].decode(errors='replace')}…: is longer than a path may be")
    return b"/".join(parts)
