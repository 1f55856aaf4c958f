"""Files on a mounted ESP: FAT knows no owner, mode or link, and half a file must not count."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.target.boot import Copy
from agent.target.tree import Tree

# Each ESP has its own, or none: a seed that two loaders share is no seed (systemd-boot(7)).
NOT_EQUAL = frozenset({"loader/random-seed"})


@dataclass(frozen=True)
class Esp:
    """An ESP mounted at `place`; paths are relative to it. What fails raises `StepError`."""

    place: Path

    def write(self, path: str, content: bytes) -> None:
        with self._replacing(path) as draft:
            draft.write_bytes(content)

    def copy(self, tree: Tree, copy: Copy) -> int:
        """Copy a file of the tree; return its size in bytes."""
        with self._replacing(copy.destination) as draft:
            tree.copy(copy.source, draft)
            return draft.stat().st_size

    def remove(self, path: str) -> None:
        with self._naming(path):
            (self.place / path).unlink(missing_ok=True)

    def holds(self, path: str) -> bool:
        return (self.place / path).is_file()

    def digests(self) -> Mapping[str, str]:
        """Return path -> SHA-256 of every file that must be equal on all ESPs."""
        with self._naming("."):
            return {
                path: _sha256(self.place / path)
                for path in sorted(self._files())
                if path not in NOT_EQUAL
            }

    def _files(self) -> Iterator[str]:
        for path in self.place.rglob("*"):
            if path.is_file():
                yield path.relative_to(self.place).as_posix()

    @contextlib.contextmanager
    def _replacing(self, path: str) -> Iterator[Path]:
        """Yield a name to write to; what was written is on the disk when it takes its real name."""
        final = self.place / path
        draft = final.with_name(f"{final.name}.new")
        with self._naming(path):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield draft
                _to_disk(draft)
                draft.replace(final)
                _to_disk(final.parent)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def _naming(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            raise StepError(f"{self.place}/{path}: {what}") from error


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
