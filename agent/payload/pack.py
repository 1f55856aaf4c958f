"""Turn a root file system's tar into an image: payload, manifest, signature.

Streaming and on all cores: the calling thread reads, surveys, rewrites and hashes, a pool
compresses, and the frames are written in order. The same tar gives the same bytes with the same
zstd library, however many cores there are and however it is read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from agent.errors import PlanError, Problem
from agent.payload.decompress import BROKEN, Progress, decompressed
from agent.payload.frames import Content, Frames
from agent.payload.packing import LEVEL, PackOptions, check
from agent.payload.publish import Image, Packed, publishing
from agent.payload.rewrite import Rewriting
from agent.payload.sign import SigningKey
from agent.payload.tar import TarError

__all__ = ["LEVEL", "PackOptions", "Packed", "pack"]

log = logging.getLogger(__name__)

_BLOCK = 1 << 20
"""Bytes of archive that are looked at together; what is packed does not depend on it."""


def pack(
    source: BinaryIO,
    directory: Path,
    name: str,
    key: SigningKey,
    *,
    options: PackOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Packed:
    """Write NAME.tar.zst, NAME.json and NAME.json.sig into `directory`, replacing older ones.

    `source` is a tar archive, plain or compressed (gzip, xz, bzip2, zstd); a pipe will do. The
    files appear when all three are complete, the manifest last. `progress` counts bytes of
    `source`; its total is 0 for a pipe. Hard links and directories are moved to the end, unless
    that could change what is unpacked; where this shows late, what was packed is packed again.
    Raises `PlanError` when the options are wrong, `source` is not one sound archive, or a file
    cannot be written.
    """
    options = options or PackOptions()
    check(name, options)
    name_of_source = getattr(source, "name", None)
    where = name_of_source if isinstance(name_of_source, str) else "source"
    with publishing(directory, name, key, options, kind="tree") as image, _sound(where):
        return _packed(_blocks(source, where, progress), image, where, options)


def _packed(archive: Iterator[Content], image: Image, where: str, options: PackOptions) -> Packed:
    size, overlay = image.chunk_size, options.overlay
    with Rewriting(image.work, size, move=True, overlay=overlay) as moved:
        frames = image.frames(where)
        frames.write(moved.pieces(archive), image.payload)
        if not moved.reason:
            return _finished(image, frames, moved)
        log.debug("%s: members stay in their order: %s", where, moved.reason)
        with Rewriting(image.work, size, move=False, overlay=overlay) as kept, image.again() as old:
            original = chain(moved.original(frames.contents(old)), archive)
            frames = image.frames(where)
            frames.write(kept.pieces(original), image.payload)
            return replace(_finished(image, frames, kept), ordered=moved.reason)


def _finished(image: Image, frames: Frames, rewriting: Rewriting) -> Packed:
    survey = rewriting.survey
    newest = datetime.fromtimestamp(max(0, survey.newest), UTC)
    packed = image.finish(frames, created=newest, os=survey.os(), tree=rewriting.tree)
    return replace(packed, dated=rewriting.dated)


def _blocks(source: BinaryIO, where: str, progress: Progress) -> Iterator[Content]:
    try:
        stream = decompressed(source, progress)
        while block := stream.read(_BLOCK):
            yield block
    except BROKEN as error:
        raise PlanError([Problem(where, f"cannot be read: {error}")]) from None


@contextmanager
def _sound(where: str) -> Iterator[None]:
    """Name the source where it is the source that is wrong."""
    try:
        yield
    except TarError as error:
        raise PlanError([Problem(where, str(error))]) from None
