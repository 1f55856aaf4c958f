"""Files inside the installed tree, never outside it.

The tree's symbolic links are resolved as the installed system would see them: `/etc/x -> /run/y`
stays below the root of the tree. Anything else would let an image write to the live system.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from agent.errors import StepError

MAX_LINKS = 40  # what the kernel follows before ELOOP (path_resolution(7))


@dataclass(frozen=True)
class TargetFile:
    """One file to put into the tree; `content` is complete, owner and group are numbers."""

    path: PurePosixPath
    content: bytes = field(repr=False)  # some hold a report server's token
    mode: int = 0o644
    owner: int = 0
    group: int = 0

    @classmethod
    def text(cls, path: str, text: str, mode: int = 0o644) -> TargetFile:
        """Return a text file of root's."""
        return cls(PurePosixPath(path), text.encode(), mode)


@dataclass(frozen=True)
class Tree:
    """An installed system mounted at `root`. What fails raises `StepError` naming the path."""

    root: Path

    def locate(self, path: str | PurePosixPath) -> Path:
        """Return where `path` of the installed system lies here, following its links in the tree.

        The path need not exist. Raises `StepError` for links that lead in a circle.
        """
        links = 0
        todo = list(PurePosixPath("/", path).parts[1:])
        here = self.root
        while todo:
            part = todo.pop(0)
            if part == "..":
                here = here if here == self.root else here.parent
                continue
            step = here / part
            if not step.is_symlink():
                here = step
                continue
            links += 1
            if links > MAX_LINKS:
                raise StepError(f"{path}: more than {MAX_LINKS} symbolic links in the image")
            target = PurePosixPath(step.readlink())
            if target.is_absolute():
                here = self.root
            todo[:0] = target.relative_to(target.anchor).parts
        return here

    def exists(self, path: str | PurePosixPath) -> bool:
        return self.locate(path).exists()

    def is_link(self, path: str | PurePosixPath) -> bool:
        """Tell whether the name itself is a symbolic link, also a dangling one."""
        return self._name(path).is_symlink()

    def read(self, path: str | PurePosixPath) -> str:
        with _naming(path):
            return self.locate(path).read_text(errors="surrogateescape")

    def names(self, directory: str | PurePosixPath) -> tuple[str, ...]:
        """Return the sorted names in a directory; of one that is not there, none."""
        place = self.locate(directory)
        if not place.is_dir():
            return ()
        with _naming(directory):
            return tuple(sorted(entry.name for entry in place.iterdir()))

    def write(self, file: TargetFile) -> None:
        """Write a file with its mode and owner, replacing what was there; parents are made.

        The new file takes the place of the old one in a single step and never shares its inode: an
        image may hold a hard link, a FIFO or a device node under this name.
        """
        with _naming(file.path):
            place = self.locate(file.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(place) as descriptor:
                # Owner and mode come before the content: a key must never be readable.
                os.fchown(descriptor, file.owner, file.group)
                os.fchmod(descriptor, file.mode)
                with os.fdopen(descriptor, "wb", closefd=False) as stream:
                    stream.write(file.content)

    def directory(
        self, path: str | PurePosixPath, mode: int, owner: int = 0, group: int = 0
    ) -> None:
        """Make sure of a directory with this mode and owner; its parents are made as root's."""
        with _naming(path):
            place = self.locate(path)
            place.mkdir(parents=True, exist_ok=True)
            os.chown(place, owner, group)
            place.chmod(mode)

    def link(self, path: str | PurePosixPath, target: str) -> None:
        """Make `path` a symbolic link to `target`, replacing a file or link that was there."""
        with _naming(path):
            place = self._name(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            place.symlink_to(target)

    def remove(self, path: str | PurePosixPath) -> bool:
        """Remove a file or link (not what it points to); return whether one was there."""
        with _naming(path):
            place = self._name(path)
            there = os.path.lexists(place)
            place.unlink(missing_ok=True)
            return there

    def copy(self, path: str | PurePosixPath, destination: Path) -> None:
        """Copy the content of a file of the tree to a path of the live system."""
        with _naming(path), self.locate(path).open("rb") as source, destination.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)

    def duplicate(
        self,
        source: str | PurePosixPath,
        path: str | PurePosixPath,
        *,
        extent: tuple[int, int] | None = None,
    ) -> None:
        """Make `path` a copy of a file of the tree, root's, replacing what was there.

        With an extent, of so many bytes of it from that offset.
        """
        with _naming(path):
            place = self.locate(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(place) as descriptor, self.locate(source).open("rb") as stream:
                offset, left = extent or (0, os.fstat(stream.fileno()).st_size)
                stream.seek(offset)
                os.fchmod(descriptor, 0o644)
                with os.fdopen(descriptor, "wb", closefd=False) as sink:
                    while left and (part := stream.read(min(left, 1 << 20))):
                        sink.write(part)
                        left -= len(part)
                if left:
                    raise StepError(f"{source}: ends {left} bytes too early")

    def read_bytes(self, path: str | PurePosixPath) -> bytes:
        with _naming(path):
            return self.locate(path).read_bytes()

    def _name(self, path: str | PurePosixPath) -> Path:
        """Return where the name lies: its parents are followed, the last part is not."""
        pure = PurePosixPath("/", path)
        if pure.name in ("", ".."):
            raise StepError(f"{path}: does not name a file")
        return self.locate(pure.parent) / pure.name


@contextlib.contextmanager
def _naming(path: str | PurePosixPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepError(f"{path}: {(error.strerror or str(error)).lower()}") from error


@contextlib.contextmanager
def _replacing(place: Path) -> Iterator[int]:
    """Yield the descriptor of a new file that takes the place's name when the context is left."""
    draft = place.with_name(f".{secrets.token_hex(8)}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600)
    try:
        yield descriptor
        draft.replace(place)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
