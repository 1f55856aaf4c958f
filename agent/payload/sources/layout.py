"""Container images as files: an OCI layout, as a directory or a tar, and what `docker save` writes.

An archive is read where it lies: the places of its members are looked up once, and each blob is
read from its place. So it must be a plain file, not compressed and not a pipe.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from agent.payload.sources.checked import DIGEST, checked
from agent.payload.sources.headers import Members
from agent.payload.sources.layers import Layer
from agent.payload.sources.oci import Platform, layers_of, plain
from agent.payload.sources.ports import refused

_INDEX, _DOCKER = "index.json", "manifest.json"
_LARGEST_DOCUMENT = 8 << 20
_MEMBER = re.compile(
    rb"blobs(/sha(256|512)(/[0-9a-f]+)?)?|oci-layout|index\.json|manifest\.json|repositories"
    rb"|[0-9a-f]{64}(\.json|\.tar|/(json|VERSION|layer\.tar))?"
)


class Files(Protocol):
    """Named files, to be read any number of times."""

    @property
    def name(self) -> str: ...

    def has(self, path: str) -> bool: ...

    def file(self, path: str) -> AbstractContextManager[BinaryIO]: ...


@dataclass(frozen=True)
class Directory:
    """A layout in a directory."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def has(self, path: str) -> bool:
        return (self.path / path).is_file()

    @contextmanager
    def file(self, path: str) -> Iterator[BinaryIO]:
        """Yield a file of the layout."""
        try:
            file = (self.path / path).open("rb")
        except OSError as error:
            raise refused(self.name, f"{path} cannot be read: {error.strerror}") from None
        with file:
            yield file


class Archive:
    """A layout in a tar file; `members` maps a path to its place and length."""

    def __init__(self, path: Path, members: Mapping[str, tuple[int, int]]) -> None:
        self.name, self._path, self._members = str(path), path, members

    @classmethod
    def of(cls, path: Path) -> Archive | None:
        """Return the image in a tar file, or None if that is something else.

        Raises `PlanError` where it begins as an image and turns out to be none.
        """
        members: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        with path.open("rb") as file:
            for header in Members(file, str(path), seek=True):
                if header.path and not belongs(header.path):
                    return None
                name = header.path.decode()
                if header.type == "file":
                    members[name] = (file.tell(), header.size)
                elif header.type in ("symlink", "hardlink"):  # layers that are the same
                    links[name] = header.link.decode(errors="replace").removeprefix("../")
        members |= {name: members[link] for name, link in links.items() if link in members}
        if _INDEX not in members and _DOCKER not in members:
            return None
        return cls(path, members)

    def has(self, path: str) -> bool:
        return path in self._members

    @contextmanager
    def file(self, path: str) -> Iterator[BinaryIO]:
        """Yield a member of the archive."""
        if path not in self._members:
            raise refused(self.name, f"has no {path}")
        at, size = self._members[path]
        with self._path.open("rb") as file:
            file.seek(at)
            yield cast(BinaryIO, io.BufferedReader(_Part(file, size), 1 << 20))


@dataclass(frozen=True)
class _LayoutBlobs:
    files: Files

    @property
    def name(self) -> str:
        return self.files.name

    def open(self, digest: str) -> AbstractContextManager[BinaryIO]:
        """Return a blob; `digest` is one of `DIGEST`, so that its path stays in the layout."""
        return self.files.file("blobs/" + digest.replace(":", "/"))


@dataclass(frozen=True)
class _SavedLayer:
    """A layer that `docker save` wrote: its digest is of the plain tar."""

    files: Files
    path: str
    digest: str

    @property
    def name(self) -> str:
        return f"{self.files.name}: {self.path}"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        with self.files.file(self.path) as stored, plain(stored, self.name) as stream:
            file = checked(stream, self.digest, None, self.name)
            yield file
            while file.read(1 << 20):
                pass


def belongs(path: bytes) -> bool:
    """Tell whether a file of this name is found in an archive of a container image."""
    return _MEMBER.fullmatch(path) is not None


def layers_in(files: Files, platform: Platform) -> Sequence[Layer]:
    """Return the layers of the image in a layout, the lowest first; `PlanError` if there is none.

    Of several images that for `platform` is taken.
    """
    if files.has(_INDEX):
        with files.file(_INDEX) as file:
            document = file.read(_LARGEST_DOCUMENT)
        return layers_of(_LayoutBlobs(files), document, platform)
    if files.has(_DOCKER):
        return _saved(files)
    raise refused(files.name, f"is no container image: has neither {_INDEX} nor {_DOCKER}")


def _saved(files: Files) -> Sequence[Layer]:
    try:
        (image,) = json.loads(_document(files, _DOCKER))
        paths, config = image["Layers"], image["Config"]
        digests = json.loads(_document(files, str(config)))["rootfs"]["diff_ids"]
        pairs = list(zip(paths, digests, strict=True))
        for path, digest in pairs:
            if not (belongs(path.encode()) and DIGEST.fullmatch(digest)):
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"{_DOCKER} must name one image with a digest for each layer"
        raise refused(files.name, message) from None
    return [_SavedLayer(files, str(path), digest) for path, digest in pairs]


def _document(files: Files, path: str) -> bytes:
    with files.file(path) as file:
        return file.read(_LARGEST_DOCUMENT)


class _Part(io.RawIOBase):
    """The next `size` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._file.read(min(len(buffer), self._left))
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)
