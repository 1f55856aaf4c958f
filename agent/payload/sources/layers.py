"""Lay the layers of a container image over each other: layers in, one tar out, each path once.

Nothing is unpacked. The layers' headers are read in order, as if each were laid over the ones
before it, in a tree that holds names only; then they are read again, and the members that were left
at the end are passed on. So each layer is opened twice.

Rules: image-spec of OCI, "Image Layer Filesystem Changeset"; where it is silent, what containerd
does: a path through a symbolic link goes where that leads inside of the root, a directory over a
directory changes it, everything else replaces what was there. A whiteout hides what the layers
below brought, never what its own layer brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, NamedTuple, Protocol

from agent.payload.sources.headers import END, Members
from agent.payload.sources.ports import refused
from agent.payload.tar import Type

_WHITEOUT, _AUFS, _OPAQUE = b".wh.", b".wh..wh.", b".wh..wh..opq"
_MOST_LINKS = 40
"""Symbolic links followed in one path, as Linux does."""
_DEEPEST = 500
"""Directories in each other; systems have some twenty."""


class Layer(Protocol):
    """One layer. `name` is for messages; `open` yields its plain tar, whole or not at all."""

    @property
    def name(self) -> str: ...

    def open(self) -> AbstractContextManager[IO[bytes]]: ...


class _Inode:
    """What names point to: a member of a layer, by its number there."""

    __slots__ = ("children", "link", "member", "paths")

    def __init__(self, member: tuple[int, int] | None, entry: Entry | None) -> None:
        self.member = member
        self.link = entry.link if entry and entry.type == "symlink" else None
        self.children: dict[bytes, _Name] | None = None
        if entry is None or entry.type == "directory":
            self.children = {}
        self.paths: list[tuple[tuple[int, int], bytes]] = []


class _Name:
    """An entry of a directory, and the member that made it last."""

    __slots__ = ("inode", "made")

    def __init__(self, inode: _Inode, made: tuple[int, int] | None) -> None:
        self.inode, self.made = inode, made


class Entry(NamedTuple):
    """What counts of a member: its number in its layer, and the fields of `Header`."""

    number: int
    path: bytes
    type: Type
    link: bytes


class Merge:
    """The file system that several layers make, by names.

    `lay` takes the members of one layer after the other; after `settle`, `kept` says for a member
    under which path and with which target it is passed on, or None.
    """

    def __init__(self) -> None:
        self._root = _Name(_Inode(None, None), None)
        self._kept: dict[tuple[int, int], tuple[bytes, bytes | None]] = {}

    def lay(self, layer: int, entries: Iterable[Entry], where: str) -> None:
        """Lay the members of `layer` over what is there; `where` names it in messages.

        Its whiteouts count first, wherever they stand: they hide what lies below.
        """
        brought = []
        for entry in entries:
            above, _, base = entry.path.rpartition(b"/")
            if base.startswith(_WHITEOUT):
                self._hide(above, base, where)
            else:
                brought.append((entry, above, base))
        for entry, above, base in brought:
            self._bring((layer, entry.number), entry, (above, base), where)

    def _bring(
        self, made: tuple[int, int], entry: Entry, place: tuple[bytes, bytes], where: str
    ) -> None:
        if not entry.path:
            self._root.inode.member = self._root.made = made
            return
        above, base = place
        parent = self._parent(above, where)
        inode = self._target(entry, where) if entry.type == "hardlink" else _Inode(made, entry)
        before = parent.get(base)
        if before and before.inode.children is not None and inode.children is not None:
            inode.children = before.inode.children
        parent[base] = _Name(inode, made)

    def settle(self) -> None:
        """Say that all was seen: choose who brings each file, and who links to it."""
        inodes: list[_Inode] = []
        self._walk(self._root, b"", inodes)
        for inode in inodes:
            # The member itself if its name is left, else the first link that is.
            inode.paths.sort(key=lambda path: (path[0] != inode.member, path))
            (_, first), *links = inode.paths
            assert inode.member is not None
            self._kept[inode.member] = (first, None)
            for made, path in links:
                self._kept[made] = (path, first)

    def kept(self, layer: int, number: int) -> tuple[bytes, bytes | None] | None:
        """Return the path of a member that was left, and what it links to if it is a hard link."""
        return self._kept.get((layer, number))

    def _walk(self, name: _Name, path: bytes, inodes: list[_Inode]) -> None:
        waiting = [(name, path)]
        while waiting:
            name, path = waiting.pop()
            inode = name.inode
            if name.made is not None:
                if not inode.paths:
                    inodes.append(inode)
                inode.paths.append((name.made, path))
            for base, child in (inode.children or {}).items():
                waiting.append((child, path + b"/" + base if path else base))

    def _hide(self, above: bytes, base: bytes, where: str) -> None:
        if base.startswith(_AUFS) and base != _OPAQUE:  # what AUFS kept for itself
            return
        hidden = base.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise refused(where, f"has a whiteout for {_shown(hidden)!r}, which is no name")
        parent = self._find(above, where)
        children = parent.inode.children if parent else None
        if children is None:
            return
        if base == _OPAQUE:
            children.clear()
        else:
            children.pop(hidden, None)

    def _target(self, entry: Entry, where: str) -> _Inode:
        above, _, base = entry.link.rpartition(b"/")
        parent = self._find(above, where)
        found = (parent.inode.children or {}).get(base) if parent else None
        if found is None or found.inode.children is not None:
            what = "is a directory" if found else "is not there"
            link, target = _shown(entry.path), _shown(entry.link)
            raise refused(where, f"{link}: is a hard link to {target}, which {what}")
        return found.inode

    def _parent(self, path: bytes, where: str) -> dict[bytes, _Name]:
        """Return the entries of a directory, made if it is not there."""
        name = self._find(path, where, make=True)
        if name is None or name.inode.children is None:
            raise refused(where, f"{_shown(path)}: is no directory, and something lies below it")
        return name.inode.children

    def _find(self, path: bytes, where: str, *, make: bool = False) -> _Name | None:
        """Follow a path to a directory, symbolic links too, but never out of the root."""
        parts = path.split(b"/")[::-1] if path else []
        way = [self._root]
        links = 0
        while parts:
            part = parts.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                way = way[:-1] or way
                continue
            children = way[-1].inode.children
            if children is None:
                return None
            if part not in children:
                if not make:
                    return None
                children[part] = _Name(_Inode(None, None), None)
            link = children[part].inode.link
            if link is None:
                way.append(children[part])
                if len(way) > _DEEPEST:
                    raise refused(where, f"{_shown(path)[:64]}…: is over {_DEEPEST} levels deep")
                continue
            links += 1
            if links > _MOST_LINKS:
                raise refused(where, f"{_shown(path)}: goes through more than {_MOST_LINKS} links")
            parts += link.split(b"/")[::-1]
            if link.startswith(b"/"):
                way = way[:1]
        return way[-1]


def merged(layers: Sequence[Layer]) -> Iterator[bytes]:
    """Yield the tar of what the layers make, laid over each other from the first to the last.

    Members come in the order of the layers, each path once, hard links after their file. Raises
    `PlanError` where a layer is unsound.
    """
    merge = Merge()
    for at, layer in enumerate(layers):
        with layer.open() as stream:
            members = enumerate(Members(stream, layer.name))
            entries = [Entry(number, one.path, one.type, one.link) for number, one in members]
        merge.lay(at, entries, layer.name)
    merge.settle()
    for at, layer in enumerate(layers):
        with layer.open() as stream:
            found = Members(stream, layer.name)
            for number, header in enumerate(found):
                place = merge.kept(at, number)
                if place is not None:
                    yield header.named(*place).raw
                    yield from found.content()
    yield END


def _shown(path: bytes) -> str:
    return path.decode(errors="replace")
