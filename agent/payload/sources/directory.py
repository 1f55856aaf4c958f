"""A directory as a tar stream, by GNU tar, the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from agent.payload.sources.headers import END, Members
from agent.payload.sources.pieces import stream_of
from agent.payload.sources.ports import Reading, run_for

TAR = (
    "tar",
    "--create",
    "--file=-",
    "--blocking-factor=2048",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    "--numeric-owner",
    "--sparse",
    "--sort=name",
    "--format=posix",
    # Neither the time of this run nor what another run read of the files.
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
)
"""Everything a file system has, and nothing of this run: append `--directory=DIR` and `.`."""


@contextmanager
def directory(path: Path, reading: Reading) -> Iterator[BinaryIO]:
    """Yield a tar stream of all below `path`.

    Mount points in it are entered. Raises `PlanError` where tar cannot read something, or a file
    changed meanwhile.
    """
    with run_for(str(path)), reading(*TAR, f"--directory={path}", ".") as archive:
        yield stream_of(steady(archive, str(path)), str(path))


def steady(archive: IO[bytes], where: str) -> Iterator[bytes]:
    """Yield an archive of GNU tar without the number of the process that wrote it.

    GNU tar puts it into the names that a reader without knowledge of sparse files would give them.
    """
    members = Members(archive, where)
    for header in members:
        yield header.steady().raw
        yield from members.content()
    yield END
