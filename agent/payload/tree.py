"""Lay a tree image over a mounted root: GNU tar, fed with verified bytes, shut in to that root.

Python's tarfile is three times slower and loses extended attributes and ACLs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from agent.errors import CommandError, ImageError
from agent.payload.flush import flushed, is_full
from agent.payload.parents import with_parents
from agent.payload.shards import PATIENCE, Chunk, Cuts, Open, Shards, feed
from agent.payload.untrusted import DROPPED, admitted

Progress = Callable[[int, int], None]

_SCRIPT = Path(__file__).with_name("extract.sh")
TAR_OPTIONS = (
    "--file=-",
    # Records of 1 MiB, as long as the pipe: an eighth less time than with the 10 KiB default.
    "--blocking-factor=2048",
    # Read what pads the archive too, however much it is, so that the stream can be fed to its end.
    "--ignore-zeros",
    "--delay-directory-restore",
    "--preserve-permissions",
    "--numeric-owner",
    # What `tar --xattrs` and `tar --selinux` wrote; each keeps labels under a name of its own. Both
    # set the attribute itself, so they work on a live system whose kernel has SELinux off.
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    # An overlay with a directory lib/ must not replace the link lib -> usr/lib.
    "--keep-directory-symlink",
    # Said of every file when the live system's clock is wrong, or libarchive wrote the archive.
    "--warning=no-timestamp",
    "--warning=no-unknown-keyword",
)


class Feeding(Protocol):
    """Run a program and feed its stdin: `agent.adapters.command.feeding`."""

    def __call__(
        self, *argv: str | os.PathLike[str], pipe_size: int = ..., patience: float | None = ...
    ) -> AbstractContextManager[IO[bytes]]: ...


def extract(
    chunks: Iterable[Chunk],
    root: Path,
    feeding: Feeding,
    *,
    size: int | None,
    progress: Progress = lambda done, total: None,
    cuts: Cuts | None = None,
    trusted: bool = True,
) -> None:
    """Unpack a tar stream below `root`, and write it through to the disks.

    `size` is its length in bytes, or None where only its end tells.

    Owners, modes, times, set-id bits, hard links, holes, ACLs, extended attributes and labels are
    as in the archive. No member leaves `root`: one that tries makes this fail, and so does a device
    node, a file with set-id bits, or one with capabilities, unless the archive is `trusted`: signed
    by somebody we know.

    With `cuts` the chunks must be those of the manifest, one by one, and several tars work side by
    side, if there are but directories below `root`.

    `progress` counts bytes that tar was given. Needs root. Raises `ImageError`, also when a device
    failed or filled up after tar was done.
    """

    def start() -> AbstractContextManager[IO[bytes]]:
        return feeding(*_argv(root, trusted), pipe_size=1 << 20, patience=PATIENCE)

    stream = iter(chunks if trusted else admitted(chunks, root))
    fed = _Fed(size or 0, progress)
    with flushed(root) as volumes:
        try:
            if cuts is not None and cuts.lanes > 1 and is_blank(root):
                _unpack_shards(stream, root, cuts, start, fed)
            _unpack_rest(stream, start, fed)
        except CommandError as error:
            full = "".join(f"{volume} is full: " for volume in volumes if is_full(volume))
            message = f"{root}: {full}tar {error.what} after {fed.count} bytes"
            raise ImageError(f"{message}: {error.stderr}" if error.stderr else message) from None
    if size is not None and fed.count != size:
        raise ImageError(f"{root}: the archive was {fed.count} bytes long, must be {size}")


def is_blank(root: Path) -> bool:
    """Tell whether nothing but directories lies below `root`: mount points, lost+found.

    Over a tree that is there already, what a member does may hang on one that came before it, as
    where a file takes the place of a directory to which a link points.
    """
    for directory, names, files in os.walk(root):
        if files or any(Path(directory, name).is_symlink() for name in names):
            return False
    return True


@dataclass
class _Fed:
    """How many bytes tar was given."""

    size: int
    progress: Progress
    count: int = 0

    def note(self, count: int) -> None:
        self.count = count
        self.progress(count, self.size)


def _unpack_shards(stream: Iterator[Chunk], root: Path, cuts: Cuts, start: Open, fed: _Fed) -> None:
    """Unpack what may be unpacked in any order; leave the rest in the stream."""
    with Shards(start, cuts.lanes) as shards:
        for head, chunk in zip(cuts.heads, with_parents(stream, root), strict=False):
            shards.put(chunk, head=head)
            fed.note(shards.fed)
    fed.note(shards.fed)


def _unpack_rest(stream: Iterator[Chunk], start: Open, fed: _Fed) -> None:
    with start() as pipe:
        for chunk in stream:
            feed(pipe, chunk)
            fed.note(fed.count + len(chunk))


def _argv(root: Path, trusted: bool) -> tuple[str | os.PathLike[str], ...]:
    private = ("unshare", "--mount", "--propagation", "private")
    return (*private, *(() if trusted else DROPPED), "sh", _SCRIPT, root.absolute(), *TAR_OPTIONS)
