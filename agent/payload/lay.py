"""Lay a tree image over a mounted root: what is fetched goes to tar, page by page, verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from agent.payload.apart import apart_of
from agent.payload.fetch import Source
from agent.payload.lent import Buffers
from agent.payload.manifest import Manifest
from agent.payload.options import FetchOptions
from agent.payload.pieces import Pieces
from agent.payload.shards import Cuts
from agent.payload.stream import Tally, stream
from agent.payload.tree import Feeding, Progress, extract


def lay(
    manifest: Manifest,
    source: Source,
    root: Path,
    feeding: Feeding,
    *,
    options: FetchOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Tally:
    """Unpack the image below `root`, and have it on the disks; `progress` counts its bytes.

    Raises `ImageError`. Needs root.
    """
    tally, buffers, options = Tally(), Buffers(), options or FetchOptions()

    def read(numbers: range) -> Iterator[bytes]:
        with Pieces(manifest, source, options) as pieces:
            yield from map(pieces.get, numbers)

    with closing(stream(manifest, source, options, tally, buffers)) as chunks:
        extract(
            chunks,
            root,
            feeding,
            size=manifest.size,
            progress=progress,
            cuts=Cuts.of(manifest, read),
            back=buffers.back,
            apart=apart_of(manifest.tree.links if manifest.tree else (), root),
        )
    return tally
