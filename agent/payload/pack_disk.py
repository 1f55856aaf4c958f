"""Turn a whole disk into an image: payload NAME.raw.zst, manifest, signature.

The disk is cut at fixed places, so that an unchanged region gives an unchanged chunk. Zeros are
marked, and nobody ever fetches them; holes are not even read here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from agent.errors import PlanError, Problem
from agent.payload.decompress import Progress
from agent.payload.frames import Piece
from agent.payload.manifest import Os
from agent.payload.packing import PackOptions, check
from agent.payload.publish import Packed, publishing
from agent.payload.sign import SigningKey


@dataclass(frozen=True)
class DiskSource:
    """A disk to pack.

    `pieces` cuts it into chunks of the size it is given, and reports progress in bytes; it is
    called once. `modified` is the manifest's time unless the options name one.
    """

    name: str
    modified: datetime
    pieces: Callable[[int, Progress], Iterable[Piece]]


def pack_disk(
    source: DiskSource,
    directory: Path,
    name: str,
    key: SigningKey,
    *,
    options: PackOptions | None = None,
    os: Os | None = None,
    progress: Progress = lambda done, total: None,
) -> Packed:
    """Write NAME.raw.zst, NAME.json and NAME.json.sig into `directory`, replacing older ones.

    The files appear when all three are complete, the manifest last. Raises `PlanError` when the
    options are wrong, the disk cannot be read or is empty, or a file cannot be written.
    """
    options = options or PackOptions()
    check(name, options)
    with publishing(directory, name, key, options, kind="disk") as image:
        frames = image.frames(source.name)
        frames.write(source.pieces(image.chunk_size, progress), image.payload)
        return image.finish(frames, created=source.modified, os=os)


def os_of(name: str | None) -> Os | None:
    """Return what `--os-id` says is on a disk; a disk is not looked into. Raises `PlanError`."""
    if name is None:
        return None
    try:
        return Os(id=name)
    except ValidationError:
        message = f"is {name!r}, must be an ID of os-release(5): small letters, digits, . _ or -"
        raise PlanError([Problem("os-id", message)]) from None


def zero_bytes(packed: Packed) -> int:
    """Return how many bytes of the image lie in chunks of zeros."""
    return sum(chunk.length for chunk in packed.manifest.chunks if chunk.zero)
