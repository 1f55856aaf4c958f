"""What changed between two builds of an image.

Chunks that both images have are not read: a payload is fetched only where they differ. A run of
chunks that begins where a member begins can be read as an archive of its own.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from agent.errors import ImageError
from agent.payload.manifest import Chunk, Manifest

Change = Literal["added", "removed", "content", "metadata"]
Fetch = Callable[[int], bytes]
"""The verified raw bytes of a chunk, by its number."""

_READ = 1 << 20
# What is said of a member twice, or belongs to the archive and not to the file.
_NOT_THE_FILES = {"path", "linkpath", "size", "mtime", "atime", "ctime", "uid", "gid", "uname"}


@dataclass(frozen=True)
class File:
    """A member: what it is, and what is in it. `content` is empty unless it is a plain file."""

    kind: str
    mode: int
    owner: tuple[int, int]
    size: int
    link: str
    device: tuple[int, int]
    content: str
    more: tuple[tuple[str, str], ...]
    """Extended attributes, ACLs and labels, as pax records."""


@dataclass(frozen=True)
class Difference:
    """One path that is not the same in both."""

    path: str
    change: Change
    before: int
    after: int
    """Bytes of content."""
    what: tuple[str, ...] = ()
    """The fields that changed, for `metadata`."""


@dataclass(frozen=True)
class Shared:
    """How much of the new image somebody who has the old one already has, in stored bytes."""

    chunks: int
    stored: int
    of_chunks: int
    of_stored: int

    @property
    def share(self) -> float:
        return self.stored / self.of_stored if self.of_stored else 1.0


def shared(old: Manifest, new: Manifest) -> Shared:
    """Count the chunks of `new` that `old` has too, by their digests."""
    known = {chunk.sha256 for chunk in old.chunks}
    same = [chunk for chunk in new.chunks if chunk.sha256 in known]
    return Shared(
        len(same),
        sum(chunk.stored for chunk in same),
        len(new.chunks),
        sum(chunk.stored for chunk in new.chunks),
    )


def unshared(manifest: Manifest, other: Manifest) -> tuple[range, ...]:
    """Return the runs of chunks of `manifest` that must be read to know what `other` has not.

    A run begins where a member does, and holds at least one chunk that `other` lacks.
    """
    known = {chunk.sha256 for chunk in other.chunks}
    return tuple(
        run
        for run in _runs(manifest.chunks)
        if any(manifest.chunks[number].sha256 not in known for number in run)
    )


def differences(old: Mapping[str, File], new: Mapping[str, File]) -> Iterator[Difference]:
    """Yield what differs, by path. What is in neither is the same in both."""
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before is None and after is not None:
            yield Difference(path, "added", 0, after.size)
        elif after is None and before is not None:
            yield Difference(path, "removed", before.size, 0)
        elif before is not None and after is not None and before != after:
            yield _difference(path, before, after)


def members(manifest: Manifest, runs: Sequence[range], fetch: Fetch) -> dict[str, File]:
    """Return the members that begin in these runs, by path; raise `ImageError` if one is broken."""
    found: dict[str, File] = {}
    for run in runs:
        stream = _Concatenated(run, fetch)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_READ) as archive:
                for member in archive:
                    found[_path(member.name)] = _file(archive, member)
        except tarfile.TarError as error:
            where = f"image {manifest.name}: chunks {run.start} to {run.stop - 1}"
            raise ImageError(f"{where}: cannot be read as tar: {error}") from None
    return found


def changed_ranges(old: Manifest, new: Manifest) -> tuple[range, ...]:
    """Return the bytes of a disk image that may differ, neighbours joined."""
    before = {(chunk.offset, chunk.length, chunk.sha256) for chunk in old.chunks}
    ranges: list[range] = []
    for chunk in new.chunks:
        if (chunk.offset, chunk.length, chunk.sha256) in before:
            continue
        end = chunk.offset + chunk.length
        if ranges and ranges[-1].stop == chunk.offset:
            ranges[-1] = range(ranges[-1].start, end)
        else:
            ranges.append(range(chunk.offset, end))
    return tuple(ranges)


def _runs(chunks: Sequence[Chunk]) -> Iterator[range]:
    first = 0
    for number in range(1, len(chunks) + 1):
        if number == len(chunks) or not chunks[number].continues:
            yield range(first, number)
            first = number


def _difference(path: str, before: File, after: File) -> Difference:
    if (before.kind, before.content, before.link) != (after.kind, after.content, after.link):
        return Difference(path, "content", before.size, after.size)
    names = ("mode", "owner", "device", "more")
    words = {"more": "attributes"}
    what = tuple(
        words.get(name, name) for name in names if getattr(before, name) != getattr(after, name)
    )
    return Difference(path, "metadata", before.size, after.size, what or ("size",))


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo) -> File:
    digest = ""
    if member.isreg():
        content = archive.extractfile(member)
        assert content is not None  # of a plain file there always is
        hashing = sha256()
        while piece := content.read(_READ):
            hashing.update(piece)
        digest = hashing.hexdigest()
    more = {k: v for k, v in member.pax_headers.items() if k not in _NOT_THE_FILES | {"gname"}}
    return File(
        kind=_KINDS.get(member.type, "file"),
        mode=member.mode & 0o7777,
        owner=(member.uid, member.gid),
        size=member.size if member.isreg() else 0,
        link=member.linkname,
        device=(member.devmajor, member.devminor) if member.isdev() else (0, 0),
        content=digest,
        more=tuple(sorted(more.items())),
    )


_KINDS = {
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "fifo",
}


def _path(name: str) -> str:
    return "/" + "/".join(part for part in name.split("/") if part not in {"", "."})


class _Concatenated(io.RawIOBase):
    """The raw bytes of a run, then the end of an archive."""

    def __init__(self, run: range, fetch: Fetch) -> None:
        self._fetch = fetch
        self._numbers = iter(run)
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        gathered = bytearray()
        while len(gathered) < size:
            if not self._rest and not self._more():
                break
            step = self._rest[: size - len(gathered)]
            self._rest = self._rest[len(step) :]
            gathered += step
        return bytes(gathered)

    def _more(self) -> bool:
        number = next(self._numbers, None)
        if number is not None:
            self._rest = self._fetch(number)
            return True
        if self._ended:
            return False
        self._ended, self._rest = True, bytes(tarfile.RECORDSIZE)
        return True
