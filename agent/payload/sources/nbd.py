"""Read a disk from an NBD server over a unix socket: as much of the protocol as qemu-nbd needs.

Source: doc/proto.md of NetworkBlockDevice/nbd, "Newstyle negotiation", NBD_OPT_EXPORT_NAME and
"Simple reply message". No kernel module and no program besides the server is needed.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

_OPTION = b"IHAVEOPT"
_GREETING = struct.Struct(">8s8sH")
_EXPORT = struct.Struct(">QH")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_EXPORT_NAME = 1
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_READ, _DISCONNECT = 0, 2
_MOST = 32 << 20
"""Bytes in one request that every server takes."""


class NbdError(OSError):
    """The server does not speak the protocol, or could not read its disk."""

    def __init__(self, message: str) -> None:
        super().__init__(5, message)


class NbdClient:
    """A connection to the one disk that a server exports. Close it when done."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._number = 0
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            self.size = self._negotiate()
        except BaseException:
            self._socket.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from the disk's byte `offset`; raise `OSError`."""
        for done in range(0, len(buffer), _MOST):
            part = buffer[done : done + _MOST]
            self._number += 1
            self._send(_READ, offset + done, len(part))
            magic, error, number = _REPLY.unpack(self._receive(_REPLY.size))
            if magic != _REPLY_MAGIC or number != self._number:
                raise NbdError("the server lost its thread")
            if error:
                raise NbdError(f"the server could not read byte {offset + done}: error {error}")
            self._fill(part)

    def close(self) -> None:
        """Say good-bye; the server ends."""
        with self._socket:
            self._send(_DISCONNECT, 0, 0)

    def _negotiate(self) -> int:
        """Choose the default export and return its size in bytes."""
        greeting, option, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if greeting != b"NBDMAGIC" or option != _OPTION or not flags & _FIXED_NEWSTYLE:
            raise NbdError("the server does not speak fixed newstyle NBD")
        plain = flags & _NO_ZEROES
        wanted = struct.pack(">I8sII", _FIXED_NEWSTYLE | plain, _OPTION, _EXPORT_NAME, 0)
        self._socket.sendall(wanted)
        size, _ = _EXPORT.unpack(self._receive(_EXPORT.size))
        if not plain:
            self._receive(124)
        return int(size)

    def _send(self, kind: int, offset: int, length: int) -> None:
        request = _REQUEST.pack(_REQUEST_MAGIC, 0, kind, self._number, offset, length)
        self._socket.sendall(request)

    def _receive(self, size: int) -> bytes:
        buffer = bytearray(size)
        self._fill(memoryview(buffer))
        return bytes(buffer)

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            size = self._socket.recv_into(view[done:])
            if not size:
                raise NbdError("the server hung up")
            done += size
