"""Memory that is lent to programs: pages that a pipe points to instead of holding a copy of them.

vmsplice(2) puts the pages themselves into the pipe, so a byte on its way to a program is copied
once, by the program's read. Until then its page must stay as it is: what was verified is read.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import termios
import threading
from collections import deque
from collections.abc import Sequence

_NONBLOCK = 2  # SPLICE_F_NONBLOCK
_NO_SPLICE = {errno.ENOSYS, errno.EPERM, errno.EINVAL}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.vmsplice.restype = ctypes.c_ssize_t
_libc.vmsplice.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_uint)


class Buffers:
    """Some buffers, lent to who asks and taken back from any thread.

    A view of a buffer is given back by `back`, once, by whoever uses it last.
    """

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque()
        self._own = frozenset[int]()
        self._changed = threading.Condition()

    def own(self, buffers: Sequence[mmap.mmap]) -> None:
        """Lend these and no others from now on; views of others may still come back."""
        with self._changed:
            self._own = frozenset(map(id, buffers))
            self._free = deque(buffers)

    def take(self, *, wait: bool) -> mmap.mmap | None:
        """Return a free buffer; None if there is none, and nobody is to wait for one."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._free)
            return self._free.popleft() if self._free else None

    def back(self, view: memoryview) -> None:
        """Take a view of a whole buffer back; what is not ours is only let go of."""
        owner = view.obj
        view.release()
        self.restore(owner)

    def restore(self, owner: object) -> None:
        """Take a buffer back of which there is no view any more."""
        with self._changed:
            if isinstance(owner, mmap.mmap) and id(owner) in self._own:
                self._free.append(owner)
                self._changed.notify()


class Spliced:
    """The write end of a pipe that takes pages; it tells how much of them has been read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.given = 0
        """Bytes that were put into the pipe."""
        self._able = True

    def put(self, view: memoryview) -> int:
        """Put as much of `view` into the pipe as it has room for, at least a byte.

        Raises `BlockingIOError` when it is full, `BrokenPipeError` when nobody reads any more.
        """
        if view.readonly or not self._able:
            return self.write(view)
        count = self._splice(view)
        self.given += count
        return count

    def write(self, view: memoryview) -> int:
        """Put a copy into the pipe, else as `put`."""
        count = os.write(self._descriptor, view)
        self.given += count
        return count

    @property
    def read(self) -> int:
        """Bytes that the reader has taken out of the pipe."""
        return self.given - waiting(self._descriptor)

    def _splice(self, view: memoryview) -> int:
        place = ctypes.addressof(ctypes.c_char.from_buffer(view))
        vector = struct.pack("NN", place, len(view))
        error = errno.EINTR
        while error == errno.EINTR:
            count = _libc.vmsplice(self._descriptor, vector, 1, _NONBLOCK)
            if count >= 0:
                return int(count)
            error = ctypes.get_errno()
        if error in _NO_SPLICE:  # a kernel that was built without, or a sandbox
            self._able = False
            return os.write(self._descriptor, view)
        raise OSError(error, os.strerror(error))


def waiting(descriptor: int) -> int:
    """Return how many bytes are in a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return int(count)
