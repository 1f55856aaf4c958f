"""Lay a tree image over a mounted root: GNU tar, fed with verified bytes, shut in to that root.

Python's tarfile is three times slower and loses extended attributes and ACLs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Protocol

from agent.errors import CommandError, ImageError
from agent.payload.apart import Apart
from agent.payload.flush import flushed, is_full
from agent.payload.parents import make_directories, with_parents
from agent.payload.shards import PATIENCE, Back, Chunk, Cuts, Shards, feed
from agent.payload.tar import Attribute
from agent.payload.untrusted import DROPPED, admitted

Progress = Callable[[int, int], None]

_SCRIPT = Path(__file__).with_name("extract.sh")
DELAY = "--delay-directory-restore"
"""What lies in a directory may come long after it. tar 1.34 then compares each directory's name
with those of all before. A tail, where what lies below a directory follows it, goes without."""
TAR_OPTIONS = (
    "--file=-",
    # Records of 1 MiB, as long as the pipe: an eighth less time than with the 10 KiB default.
    "--blocking-factor=2048",
    # Read what pads the archive too, however much it is, so that the stream can be fed to its end.
    "--ignore-zeros",
    DELAY,
    "--preserve-permissions",
    "--numeric-owner",
    # An overlay with a directory lib/ must not replace the link lib -> usr/lib.
    "--keep-directory-symlink",
    # Said of every file when the live system's clock is wrong, or libarchive wrote the archive.
    "--warning=no-timestamp",
    "--warning=no-unknown-keyword",
)
ATTRIBUTE_OPTIONS: Mapping[Attribute, tuple[str, ...]] = {
    # What `tar --xattrs` and `tar --selinux` wrote; each keeps labels under a name of its own. Both
    # set the attribute itself, so they work on a live system whose kernel has SELinux off.
    "xattrs": ("--xattrs", "--xattrs-include=*"),
    "selinux": ("--selinux",),
    # Sets the ACL of each file from its mode where the archive has none, and for that goes to its
    # directory and back: more work than all else that is done for a small file.
    "acls": ("--acls",),
}


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
    back: Back | None = None,
    apart: Apart | None = None,
) -> None:
    """Unpack a tar stream below `root`, and write it through to the disks.

    `size` is its length in bytes, or None where only its end tells.

    Owners, modes, times, set-id bits, hard links, holes, ACLs, extended attributes and labels are
    as in the archive. No member leaves `root`: one that tries makes this fail, and so does a device
    node, a file with set-id bits, or one with capabilities, unless the archive is `trusted`: signed
    by somebody we know.

    With `cuts` the chunks must be those of the manifest, one by one, and several tars work side by
    side, if there are but directories below `root`. With `back` the chunks are lent, and each is
    given back when it was used. With `apart`, hard links between volumes become copies.

    `progress` counts bytes that tar was given. Needs root. Raises `ImageError`, also when a device
    failed or filled up after tar was done.
    """
    cuts = cuts if cuts is not None and cuts.lanes > 1 and is_blank(root) else None
    argv = _argv(root, _attributes(root, cuts), trusted)

    def start(*without: str) -> AbstractContextManager[IO[bytes]]:
        words = (word for word in argv if word not in without)
        return feeding(*words, pipe_size=1 << 20, patience=PATIENCE)

    stream = iter(chunks if trusted else admitted(chunks, root))
    fed = _Fed(size or 0, progress)
    with flushed(root) as flusher:
        try:
            # All are started first: what that takes is over when the first chunk has come.
            with start() if cuts is None else start(DELAY) as pipe:
                if cuts is not None:
                    with (
                        Shards(start, cuts.lanes, back=back) as shards,
                        # By hand: an error that is on its way would keep the target open.
                        closing(_ready(stream, root, cuts)) as ready,
                    ):
                        _unpack_shards(ready, cuts, shards, fed)
                    fed.note(shards.fed)
                    flusher.soon()
                rest = stream if apart is None else apart.sifted(stream, back)
                _unpack_rest(rest, pipe, fed, back)
            if apart is not None:
                apart.copy(root)
        except CommandError as error:
            full = "".join(f"{volume} is full: " for volume in flusher.mounts if is_full(volume))
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


def _ready(stream: Iterator[Chunk], root: Path, cuts: Cuts) -> Generator[Chunk, None, None]:
    """Have the directories of all members made, before any tar needs them."""
    if cuts.ahead is None:
        yield from with_parents(stream, root)
        return
    first = list(islice(stream, 1))  # whoever fetches goes on with those behind it meanwhile
    make_directories(cuts.ahead(), root)
    yield from chain(first, stream)


def _unpack_shards(stream: Iterator[Chunk], cuts: Cuts, shards: Shards, fed: _Fed) -> None:
    """Unpack what may be unpacked in any order; leave the rest in the stream."""
    for head, chunk in zip(cuts.heads, stream, strict=False):
        shards.put(chunk, head=head)
        fed.note(shards.fed)


def _unpack_rest(
    stream: Iterator[Chunk],
    pipe: IO[bytes],
    fed: _Fed,
    back: Back | None,
) -> None:
    for chunk in stream:
        count = len(chunk)
        feed(pipe, chunk)
        if back is not None and isinstance(chunk, memoryview):
            back(chunk)
        fed.note(fed.count + count)


def _attributes(root: Path, cuts: Cuts | None) -> Iterable[Attribute]:
    """Return what tar must set, if only so that nothing is inherited from a directory."""
    known = None if cuts is None else cuts.attributes
    if known is None or any(_gives(directory) for directory, _, _ in os.walk(root)):
        return ATTRIBUTE_OPTIONS
    return known


def _gives(directory: str) -> bool:
    """Tell whether a directory gives an ACL to what is made in it."""
    try:
        return "system.posix_acl_default" in os.listxattr(directory)
    except OSError:  # the file system has no such thing
        return False


def _argv(
    root: Path, attributes: Iterable[Attribute], trusted: bool
) -> tuple[str | os.PathLike[str], ...]:
    private = ("unshare", "--mount", "--propagation", "private")
    dropped = () if trusted else DROPPED
    options = [option for each in sorted(attributes) for option in ATTRIBUTE_OPTIONS[each]]
    return (*private, *dropped, "sh", _SCRIPT, root.absolute(), *TAR_OPTIONS, *options)
