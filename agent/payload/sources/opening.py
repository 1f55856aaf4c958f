"""Open whatever somebody wants packed: a tar stream if it makes a tree, or a disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from agent.payload.decompress import BROKEN, decompressed
from agent.payload.pack_disk import DiskSource
from agent.payload.sources.detect import HEAD, Found, detect
from agent.payload.sources.directory import directory
from agent.payload.sources.disk import pieces_of, stream_pieces
from agent.payload.sources.layers import Layer, merged
from agent.payload.sources.layout import Archive, Directory, layers_in
from agent.payload.sources.oci import Platform
from agent.payload.sources.pieces import peeked, stream_of
from agent.payload.sources.ports import Reading, refused
from agent.payload.sources.qemu import Format
from agent.payload.sources.squashfs import squashfs
from agent.payload.sources.system import Image, system

Kind = Literal["tree", "disk"]
Source = BinaryIO | DiskSource
_EPOCH = datetime.fromtimestamp(0, UTC)
_QEMU: dict[str, Format] = {"qcow2": "qcow2", "vmdk": "vmdk"}
_SYSTEMS = frozenset({"ext4", "xfs", "btrfs", "erofs"})


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    `kind` None goes by what the source is; `platform`, None for this machine's, chooses among the
    images of a container.
    """

    kind: Kind | None = None
    platform: Platform | None = None


def opened(path: Path, wish: Wish, reading: Reading) -> AbstractContextManager[Source]:
    """Open a file, a directory or a device.

    Raises `PlanError`, here or when entered, if it is nothing that can be packed, or not as what
    was asked for.
    """
    if path.is_dir():
        _check(wish, "tree", str(path), "a directory")
        layout = Directory(path)
        if layout.has("oci-layout") and layout.has("index.json"):
            return container(str(path), layers_in(layout, wish.platform or Platform.here()))
        return directory(path, reading)
    if not (path.is_file() or path.is_block_device()):
        return _piped(path, wish)
    with _file(path) as file:
        start = file.read(HEAD)
        file.seek(0)
        head = _inner(file, str(path))[0]
    found = detect(head)
    if head != start:
        return _compressed(path, found, wish)
    return _plain(path, found, wish, reading)


@contextmanager
def streamed(stream: BinaryIO, wish: Wish, name: str = "stdin") -> Iterator[Source]:
    """Open a pipe: a tar or a raw disk, compressed or not, read once."""
    head, whole = _inner(stream, name)
    found = detect(head)
    if _streams(found, wish, name, "is read from a pipe") == "tree":
        yield whole
    else:
        yield DiskSource(name, _EPOCH, partial(stream_pieces, whole, name))


@contextmanager
def _piped(path: Path, wish: Wish) -> Iterator[Source]:
    """Open a pipe that has a name: `<(curl …)` of a shell."""
    with _file(path) as file, streamed(file, wish, str(path)) as source:
        yield source


@contextmanager
def container(name: str, layers: Iterable[Layer]) -> Iterator[BinaryIO]:
    """Yield what the layers of a container image make as a tar stream; each is opened twice."""
    yield stream_of(merged(tuple(layers)), name)


def _plain(
    path: Path, found: Found | None, wish: Wish, reading: Reading
) -> AbstractContextManager[Source]:
    name = str(path)
    form, shown = (found.form, found.name) if found else (None, "nothing that is known here")
    if form == "container":
        archive = Archive.of(path)
        if archive is not None:
            _check(wish, "tree", name, shown)
            return container(name, layers_in(archive, wish.platform or Platform.here()))
        form = "tar"
    if form == "tar":
        _check(wish, "tree", name, shown)
        return _file(path)
    if form == "filesystem" and wish.kind != "disk":
        return _filesystem(path, shown, reading)
    if form == "other" or (form is None and wish.kind != "disk"):
        hint = "" if form else "; --as disk takes it as it is"
        raise refused(name, f"is {shown}, which is not taken{hint}")
    image = Image(path, _QEMU.get(form or ""), reading)
    return system(image) if wish.kind == "tree" else _disk(image)


def _filesystem(path: Path, type_: str, reading: Reading) -> AbstractContextManager[Source]:
    if type_ == "squashfs":
        return squashfs(path, reading)
    if type_ in _SYSTEMS:
        return system(Image(path, None, reading))
    raise refused(str(path), f"is {type_} and no system's root; --as disk takes it as it is")


def _compressed(path: Path, found: Found | None, wish: Wish) -> AbstractContextManager[Source]:
    name = str(path)
    if _streams(found, wish, name, "is compressed") == "tree":
        return _file(path)
    return _compressed_disk(path)


def _streams(found: Found | None, wish: Wish, name: str, how: str) -> Kind:
    """Return what a stream makes; refuse what must be a plain file."""
    if found is None and wish.kind == "disk":
        return "disk"
    shown = found.name if found else "nothing that is known here"
    if found is None or found.form == "other":
        raise refused(name, f"holds {shown}, which is not taken")
    if found.form == "tar":
        _check(wish, "tree", name, shown)
        return "tree"
    raw = found.form in ("disk", "filesystem")
    if raw and (wish.kind == "disk" or (wish.kind is None and found.form == "disk")):
        return "disk"
    raise refused(name, f"{how} and holds {shown}, which must be a plain file: unpack it first")


def _check(wish: Wish, kind: Kind, name: str, shown: str) -> None:
    if wish.kind not in (None, kind):
        raise refused(name, f"is {shown}, which makes a {kind}, not a {wish.kind}")


@contextmanager
def _disk(image: Image) -> Iterator[DiskSource]:
    with image.disk() as disk:
        if not disk.size:
            raise refused(disk.name, "is empty")
        yield DiskSource(disk.name, _modified(image.path), partial(pieces_of, disk))


@contextmanager
def _compressed_disk(path: Path) -> Iterator[DiskSource]:
    with _file(path) as file:
        yield DiskSource(str(path), _modified(path), partial(stream_pieces, file, str(path)))


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise refused(str(path), f"cannot be read: {error.strerror}") from None
    with file:
        yield file


def _inner(stream: BinaryIO, name: str) -> tuple[bytes, BinaryIO]:
    try:
        return peeked(decompressed(stream, lambda done, total: None), HEAD)
    except BROKEN as error:
        raise refused(name, f"cannot be read: {error}") from None


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
