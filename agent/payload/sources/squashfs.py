"""A squashfs image as a tar stream, by sqfs2tar, which needs neither root nor a mount.

Extended attributes, capabilities, labels and hard links come along. Squashfs knows no ACLs, and
sqfs2tar writes the holes of sparse files as zeros and leaves sockets out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agent.payload.sources.pieces import stream_of
from agent.payload.sources.ports import Reading, run_for

_PIECE = 1 << 20


@contextmanager
def squashfs(path: Path, reading: Reading) -> Iterator[BinaryIO]:
    """Yield a tar stream of the file system in `path`; `PlanError` if it cannot be read."""
    # Without --root-becomes the owner and mode of / would be lost.
    argv = ("sqfs2tar", "--root-becomes", ".", path.absolute())
    with run_for(str(path)), reading(*argv) as archive:
        yield stream_of(iter(lambda: archive.read(_PIECE), b""), str(path))
