"""Get what was written onto the devices, and hear of it when they refuse.

Left to itself the kernel may keep a whole image in memory (a tenth of it is free to be dirty, and
servers have a lot) and write it only when asked at the end: tar and the disks would take turns
instead of working side by side.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.errors import ImageError

PERIOD = 0.25
"""Seconds between two flushes, at least; a tenth of that is no better."""
REST = 0.5
"""Times as long as the last flush took, at least: a file system that is being flushed may have
those wait who write to it. Three times as long leaves so much for the end that it is written for
seconds while nothing is unpacked any more."""
_ROOM = 64 << 10


@contextmanager
def flushed(root: Path) -> Iterator[Flusher]:
    """Have the file systems at and below `root` on their devices at the end of the context.

    Raises `ImageError` naming the mount point when a device refused a write, even one made after
    the program that wrote was gone: syncfs(2) tells of all errors since the file system was opened
    here, before the first write.
    """
    with ExitStack() as stack:
        volumes: dict[Path, int] = {}
        for path in _mounts(root):
            try:
                volumes[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ImageError(f"{path}: cannot be opened: {error.strerror}") from None
            stack.callback(os.close, volumes[path])
        with Flusher(volumes) as flusher:
            yield flusher
        flusher.flush()
        for path, reason in flusher.refused.items():
            raise ImageError(f"{path}: cannot be written to its device: {reason}")


def is_full(volume: Path) -> bool:
    """Tell whether a file system has no room for a file, or no inode: tar says neither."""
    room = os.statvfs(volume)
    return room.f_bavail * room.f_frsize < _ROOM or (room.f_files > 0 and room.f_favail == 0)


class Flusher:
    """Flushes the file systems behind open directories, now and then in a thread of its own."""

    def __init__(self, volumes: Mapping[Path, int]) -> None:
        self.mounts = tuple(volumes)
        """Where they are mounted."""
        self.refused: dict[Path, str] = {}
        self._volumes = volumes
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="flush")

    def __enter__(self) -> Flusher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def soon(self) -> None:
        """Begin now: hardly anything more will be written, and the devices can be at it."""
        self._wake.set()

    def flush(self) -> None:
        """Flush every file system; each error is told once, so it is kept."""
        for path, descriptor in self._volumes.items():
            if self._libc.syncfs(descriptor):
                self.refused.setdefault(path, os.strerror(ctypes.get_errno()))

    def _run(self) -> None:
        pause = PERIOD
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stopped:
                return
            began = time.monotonic()
            self.flush()
            pause = max(PERIOD, REST * (time.monotonic() - began))


def _mounts(root: Path) -> list[Path]:
    """Return `root` and the mount points below it, from proc_pid_mountinfo(5)."""
    root = root.resolve()
    mounts = {root}
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        octal = line.split()[4].split(b"\\")
        text = octal[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in octal[1:])
        path = Path(os.fsdecode(text))
        if path.is_relative_to(root):
            mounts.add(path)
    return sorted(mounts)
