"""Hard links that would lead from one file system to another: copies take their place.

A builder makes an image in one file system. Laid over several, a link between two of them cannot be
made, and tar would end with an error. Debian 14's kernels come that way: the package lays one below
/usr/lib/modules, and its hook links it into /boot (linux-base 4.17, 00-legacy-boot).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from agent.errors import ImageError
from agent.payload.shards import Back, Chunk
from agent.payload.tar import Member, TarError, TarReader

Device = Callable[[str], int]
"""The number of the file system in which a member of this path lies, or will."""


def device_below(root: Path) -> Device:
    """Return the file system of a path below `root`: of the nearest directory that is there."""

    def device(path: str) -> int:
        place = root / path
        while True:
            place = place.parent
            with suppress(FileNotFoundError, NotADirectoryError):
                return os.lstat(place).st_dev
            if place == root:
                raise ImageError(f"{root}: is not there")

    return device


def crosses(links: Iterable[tuple[str, str]], device: Device) -> bool:
    """Tell whether directories that share a hard link (`Tree.links`) are in two file systems."""
    return any(device(f"{one[1:]}/x") != device(f"{other[1:]}/x") for one, other in links)


def apart_of(links: Iterable[tuple[str, str]], root: Path) -> Apart | None:
    """Return what lays an archive with these links (`Tree.links`) over the volumes of `root`."""
    device = device_below(root)
    return Apart(device) if crosses(links, device) else None


class Apart:
    """Takes such links out of an archive on its way to tar, and makes the copies afterwards."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._reader = TarReader(self._see, lambda path: 0)
        self._out: list[tuple[int, int]] = []
        self._pending = b""
        self._done = 0
        self.links: list[tuple[str, str]] = []
        """What is to be copied: the path of each link, and of the file it leads to."""

    def sifted(self, chunks: Iterable[Chunk], back: Back | None = None) -> Iterator[bytes]:
        """Yield as many bytes, with zeros for the headers of such links; give chunks `back`.

        For a tar that ignores blocks of zeros. Raises `ImageError` for what is no sound archive.
        """
        try:
            for chunk in chunks:
                self._reader.feed(chunk)
                known = self._known(chunk)
                if back is not None and isinstance(chunk, memoryview):
                    back(chunk)
                yield known
        except TarError as error:
            raise ImageError(f"the archive {error}") from None
        yield self._pending

    def copy(self, root: Path) -> None:
        """Make the copies below `root`, when all files are there: content, owner, attributes.

        Raises `ImageError` where a directory on the way is a link that leads out of `root`, and
        where the device is full.
        """
        for path, target in self.links:
            try:
                _copy(_inside(root, target), _inside(root, path))
            except OSError as error:
                raise ImageError(f"{path}: cannot be a copy of {target}: {error}") from error

    def _see(self, member: Member) -> None:
        if member.type != "hardlink" or self._device(member.path) == self._device(member.link):
            return
        self.links.append((member.path, member.link))
        self._out.append((member.place.start, member.place.end))

    def _known(self, chunk: Chunk) -> bytes:
        """Return the bytes of which it is known by now what they belong to."""
        waiting = bytearray(self._pending)
        waiting += chunk
        begin = self._done
        ended = self._reader.end is not None
        known = len(waiting) if ended else max(0, self._reader.decided - begin)
        for start, end in self._out:
            waiting[start - begin : end - begin] = bytes(end - start)
        self._out.clear()
        self._pending, self._done = bytes(waiting[known:]), begin + known
        return bytes(waiting[:known])


def _inside(root: Path, path: str) -> Path:
    place = root / path
    if not place.parent.resolve().is_relative_to(root.resolve()):
        raise ImageError(f"{path}: lies below a link that leads out of {root}")
    return place


def _copy(source: Path, place: Path) -> None:
    """Copy a regular file with all it has; the times of the directory stay as they are."""
    there = os.lstat(source)
    if not stat.S_ISREG(there.st_mode):
        raise ImageError(f"{source}: is linked from another volume and is no regular file")
    place.parent.mkdir(parents=True, exist_ok=True)  # as tar does for one without a member
    above = place.parent.stat()
    place.unlink(missing_ok=True)
    shutil.copyfile(source, place, follow_symlinks=False)
    os.chown(place, there.st_uid, there.st_gid)
    shutil.copystat(source, place, follow_symlinks=False)
    os.utime(place.parent, ns=(above.st_atime_ns, above.st_mtime_ns))
