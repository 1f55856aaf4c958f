"""Files inside the installed tree, never outside it.

The tree's symbolic links are resolved as the installed system would see them: `/etc/x -> /run/y`
stays below the root of the tree. Anything else would let an image write to the live system.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_LINKS = 40  # what the kernel follows before ELOOP


@dataclass(frozen=True)
class TargetFile:
    """One file to put into the tree; `content` is complete, owner and group are numbers."""

    path: PurePosixPath
    content: bytes
    mode: int = 0o644
    owner: int = 0
    group: int = 0


@dataclass(frozen=True)
class Tree:
    """An installed system mounted at `root`."""

    root: Path

    def locate(self, path: str | PurePosixPath) -> Path:
        """Return where `path` of the installed system lies here, following its links in the tree."""
        links = 0
        todo = list(PurePosixPath("/", path).parts[1:])
        here = self.root
        while todo:
            part = todo.pop(0)
            if part == "..":
                here = here if here == self.root else here.parent
                continue
            step = here / part
            if step.is_symlink():
                links += 1
                if links > MAX_LINKS:
                    raise OSError(40, "too many symbolic links", str(path))
                target = PurePosixPath(os.readlink(step))
                if target.is_absolute():
                    here = self.root
                    todo[:0] = target.parts[1:]
                else:
                    todo[:0] = target.parts
            else:
                here = step
        return here

    def exists(self, path: str | PurePosixPath) -> bool:
        return self.locate(path).exists()

    def read(self, path: str | PurePosixPath) -> str:
        return self.locate(path).read_text()

    def write(self, file: TargetFile) -> None:
        """Write a file with its mode and owner, replacing what was there; parents are made."""
        place = self.locate(file.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        # The final mode is set before the content is there: a key must never be readable.
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode & 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchown(descriptor, file.owner, file.group)
            os.fchmod(descriptor, file.mode)
            stream.write(file.content)

    def link(self, path: str | PurePosixPath, target: str) -> None:
        """Make `path` a symbolic link to `target`, replacing a file or link that was there."""
        parent = self.locate(PurePosixPath(path).parent)
        parent.mkdir(parents=True, exist_ok=True)
        place = parent / PurePosixPath(path).name
        place.unlink(missing_ok=True)
        place.symlink_to(target)
