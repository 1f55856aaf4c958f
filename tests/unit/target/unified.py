"""Make small unified kernel images: a PE program with sections, as ukify(1) does."""

from __future__ import annotations

import struct
from collections.abc import Sequence

PADDING = 512


def pe(sections: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a PE program for x86-64 with these sections, each at a multiple of 512 bytes."""
    optional = bytes(240)
    header = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), 0, 0, 0, len(optional), 0)
    dos = b"MZ" + bytes(58) + struct.pack("<I", 64)
    at = _padded(len(dos) + len(header) + len(optional) + 40 * len(sections))
    table, body = b"", b""
    for name, content in sections:
        stored = _padded(len(content))
        table += struct.pack("<8sIIII16x", name.encode(), len(content), 0, stored, at)
        body += content.ljust(stored, b"\0")
        at += stored
    head = dos + header + optional + table
    return head.ljust(_padded(len(head)), b"\0") + body


def _padded(size: int) -> int:
    return -(-size // PADDING) * PADDING
