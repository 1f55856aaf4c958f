"""Turn a root file system's tar into an image: payload, manifest, signature.

Streaming and on all cores: the calling thread reads, hashes and surveys, a pool compresses, and the
frames are written in order. The same tar gives the same bytes with the same zstd library, however
many cores there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from agent.errors import PlanError, Problem
from agent.payload.decompress import BROKEN, Progress, decompressed, read_chunk
from agent.payload.frames import Frames, Piece
from agent.payload.packing import LEVEL, PackOptions, check
from agent.payload.publish import Packed, publishing
from agent.payload.sign import SigningKey
from agent.payload.survey import Survey, wanted
from agent.payload.tar import TarError, TarReader

__all__ = ["LEVEL", "PackOptions", "Packed", "pack"]


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
    `source`; its total is 0 for a pipe. Raises `PlanError` when the options are wrong, `source` is
    not one sound archive, or a file cannot be written.
    """
    options = options or PackOptions()
    check(name, options)
    name_of_source = getattr(source, "name", None)
    where = name_of_source if isinstance(name_of_source, str) else "source"
    survey = Survey()
    with publishing(directory, name, key, options, kind="tree") as image:
        frames = Frames(level=options.level, where=where, workers=options.workers)
        frames.write(_pieces(source, survey, options.chunk_size, where, progress), image.payload)
        newest = datetime.fromtimestamp(max(0, survey.newest), UTC)
        return image.finish(frames, created=newest, os=survey.os(), tree=survey.tree())


def _pieces(
    source: BinaryIO, survey: Survey, size: int, where: str, progress: Progress
) -> Iterator[Piece]:
    reader = TarReader(survey.see, wanted)
    try:
        stream = decompressed(source, progress)
        while chunk := read_chunk(stream, size):
            reader.feed(chunk)
            yield Piece(chunk)
        reader.close()
    except TarError as error:
        raise PlanError([Problem(where, str(error))]) from None
    except BROKEN as error:
        raise PlanError([Problem(where, f"cannot be read: {error}")]) from None
