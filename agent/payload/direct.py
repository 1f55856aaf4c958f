"""A block device, opened to be written past the page cache.

O_DIRECT in pieces of 4 MiB takes a fiftieth of the CPU of buffered writes and a fifth of the time,
and what is read that way comes from the device. Where a device refuses it, pages are written out
and dropped behind each write instead.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError

ALIGNMENT = 4096
"""Bytes that offsets and lengths are multiples of, whatever the sectors of the device."""
LOCK_PATIENCE = 30.0
"""Seconds that udev may take to look at the device; under emulation a probe takes several."""
HUGE = 4 << 20
"""Bytes of memory from which the kernel is asked for large pages: fewer faults, fewer entries of
the processor's table of pages; less is perhaps not used to its end."""
BEHIND = 8
"""Writes that may be on their way to a device that takes none past the page cache."""
_BLKSSZGET, _BLKGETSIZE64, _BLKFLSBUF = 0x1268, 0x80081272, 0x1261  # linux/fs.h
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # sync_file_range(2)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Target:
    """The device to write to, and what is known of it: nothing else behind the path will do."""

    path: Path
    size: int | None = None
    """Bytes it must have."""
    number: int | None = None
    """Its device number, as in `st_rdev`."""
    legs: tuple[Path, ...] = ()
    """Of a mirror: the disks that hold the same, each from its first byte on."""


class Device:
    """An open block device that is ours alone. Thread-safe. Every failure is a `StepError`."""

    def __init__(
        self, path: Path, descriptor: int, *, direct: bool, legs: tuple[Device, ...] = ()
    ) -> None:
        self.path, self.descriptor, self.direct, self._legs = path, descriptor, direct, legs
        with self.failing("cannot be asked for its size"):
            self.size = _ioctl(descriptor, _BLKGETSIZE64, "Q")
            self.sector = _ioctl(descriptor, _BLKSSZGET, "i")
        self._behind: deque[tuple[int, int]] = deque()
        self._lock = threading.Lock()

    @property
    def proven_by(self) -> tuple[Device, ...]:
        """What must be read back: each leg of a mirror, which answers for itself from any one."""
        return self._legs or (self,)

    def write(self, offset: int, content: memoryview) -> None:
        """Write everything; `content` begins on a page, and both are multiples of a sector."""
        done = 0
        while done < len(content):
            direct = self.direct
            try:
                count = os.pwrite(self.descriptor, content[done:], offset + done)
            except OSError as error:
                if direct and error.errno == errno.EINVAL:
                    self._give_up_direct()
                    continue
                raise self._failure(f"cannot be written at byte {offset + done}", error) from error
            if count == 0:
                raise StepError(f"{self.path}: takes nothing more at byte {offset + done}")
            done += count
        if not self.direct:
            self._push(offset, len(content))

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` from the device; `into` begins on a page, both are multiples of a sector."""
        done = 0
        while done < len(into):
            direct = self.direct
            try:
                count = os.preadv(self.descriptor, [into[done:]], offset + done)
            except OSError as error:
                if direct and error.errno == errno.EINVAL:
                    self._give_up_direct()
                    continue
                raise self._failure(f"cannot be read at byte {offset + done}", error) from error
            if count == 0:
                raise StepError(f"{self.path}: ends at byte {offset + done}")
            done += count

    def flush(self) -> None:
        """Have everything on the device, out of the cache of its own too.

        What was cached on this side is gone then, so that reading asks the device.
        """
        with self.failing("cannot be flushed"):
            os.fsync(self.descriptor)
        if not self.direct:
            with suppress(OSError):  # not every device has it; then the advice has to do
                fcntl.ioctl(self.descriptor, _BLKFLSBUF)
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for leg in self._legs:
            leg.flush()

    @contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Let an `OSError` out as a `StepError` that names the device."""
        try:
            yield
        except OSError as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: OSError) -> StepError:
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.ENOSPC:
            reason = f"has no space left, though it says it has {self.size} bytes"
        return StepError(f"{self.path}: {what}: {reason}")

    def _give_up_direct(self) -> None:
        """Go on through the page cache: that may be what the device did not like."""
        with self._lock:
            flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            self.direct = False

    def _push(self, offset: int, length: int) -> None:
        """Start writing pages out; wait for those of some writes ago, and drop them."""
        with self._lock:
            self._behind.append((offset, length))
            oldest = self._behind.popleft() if len(self._behind) > BEHIND else None
        self._sync(offset, length, _WRITE)
        if oldest is not None:
            self._sync(*oldest, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            os.posix_fadvise(self.descriptor, *oldest, os.POSIX_FADV_DONTNEED)

    def _sync(self, offset: int, length: int, how: int) -> None:
        at, count = ctypes.c_int64(offset), ctypes.c_int64(length)
        if _libc.sync_file_range(self.descriptor, at, count, ctypes.c_uint(how)):
            error = ctypes.get_errno()
            raise self._failure(
                f"cannot be written at byte {offset}", OSError(error, os.strerror(error))
            )


@contextmanager
def opened(target: Target) -> Iterator[Device]:
    """Yield the device, locked against udev and closed to all others; raise `StepError`.

    Never created: a missing /dev node must not become a file in memory that takes an image.
    """
    path = target.path
    with ExitStack() as stack:
        # O_EXCL without O_CREAT is the kernel's own claim: mounted, swap or a member of an array.
        descriptor, direct = _open(path, os.O_RDWR | os.O_EXCL, stack)
        number = os.fstat(descriptor).st_rdev
        if target.number not in (None, number):
            major, minor = os.major(number), os.minor(number)
            raise StepError(f"{path}: is device {major}:{minor}, not the one that was chosen")
        legs = tuple(_leg(leg, stack) for leg in target.legs)
        device = Device(path, descriptor, direct=direct, legs=legs)
        if target.size not in (None, device.size):
            raise StepError(f"{path}: has {device.size} bytes, the chosen one has {target.size}")
        _lock(device)
        yield device


def _leg(path: Path, stack: ExitStack) -> Device:
    """Open a member of an array, to be read only: the array has it for itself."""
    descriptor, direct = _open(path, os.O_RDONLY, stack)
    return Device(path, descriptor, direct=direct)


def _open(path: Path, how: int, stack: ExitStack) -> tuple[int, bool]:
    """Return a descriptor of a block device, and whether it passes by the page cache."""
    flags = how | os.O_CLOEXEC
    try:
        try:
            descriptor, direct = os.open(path, flags | os.O_DIRECT), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            descriptor, direct = os.open(path, flags), False
    except OSError as error:
        reason = {
            errno.EBUSY: "is in use: mounted, or a part of an array or a mapping",
            errno.ENOENT: "is gone",
            errno.EISDIR: "is no block device",
        }.get(error.errno or 0, f"cannot be opened: {(error.strerror or str(error)).lower()}")
        raise StepError(f"{path}: {reason}") from error
    stack.callback(os.close, descriptor)
    if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
        raise StepError(f"{path}: is no block device")
    return descriptor, direct


def _lock(device: Device) -> None:
    """Keep udev from looking at half an image (systemd's block device locking)."""
    until = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(device.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise StepError(
                    f"{device.path}: another program holds its lock for {LOCK_PATIENCE:g} s"
                ) from None
            time.sleep(0.05)
        else:
            return


def pages(size: int) -> mmap.mmap:
    """Return memory that begins on a page, as O_DIRECT wants it, and is there once it is used."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE:
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _ioctl(descriptor: int, request: int, form: str) -> int:
    answer = fcntl.ioctl(descriptor, request, bytes(struct.calcsize(form)))
    value: int = struct.unpack(form, answer)[0]
    return value
