"""Archives taken apart as the image format has it: hard links and directories last, cuts known.

Independent of what `pack` does, so that the sink is tested against the format.
"""

from __future__ import annotations

import io
import tarfile
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from agent.payload.shards import Cuts

BLOCK = 512


@dataclass(frozen=True)
class Cut:
    """An archive in chunks, and where it may be taken apart."""

    chunks: tuple[bytes, ...]
    cuts: Cuts

    @property
    def size(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)


def tail_last(archive: bytes, *, chunk: int, lanes: int = 3) -> Cut:
    """Put hard links and then directories last, and cut at members where they are small enough."""
    rest: list[bytes] = []
    links: list[bytes] = []
    directories: list[tuple[list[str], bytes]] = []
    for header, raw in members(archive):
        if header.isdir():
            directories.append((header.name.strip("/").split("/"), raw))
        else:
            (links if header.islnk() else rest).append(raw)
    directories.sort(key=lambda found: found[0])
    tail = [*links, *(raw for _, raw in directories), bytes(2 * BLOCK)]
    before, heads = _chunks(rest, chunk)
    return Cut((*before, *_chunks(tail, chunk)[0]), Cuts(tuple(heads), len(before), lanes))


def each_alone(archive: bytes, lanes: int = 3) -> Cut:
    """Cut before every member, whatever it is, in the order given: what no packer would do."""
    chunks = [raw for _, raw in members(archive)]
    cuts = Cuts((True,) * len(chunks), len(chunks), lanes)
    return Cut((*chunks, bytes(2 * BLOCK)), cuts)


def members(archive: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return each member with all its blocks, extended headers included."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        # What lies after a member is the next, so offsets are good once it has been read.
        found = [(header, header.offset, opened.offset) for header in opened]
    return [(header, archive[begin:end]) for header, begin, end in found]


def _chunks(parts: Sequence[bytes], size: int) -> tuple[list[bytes], list[bool]]:
    raw = b"".join(parts)
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    chunks: list[bytes] = []
    heads: list[bool] = []
    at = 0
    while at < len(raw):
        limit = at + size
        edge = starts[bisect_right(starts, limit) - 1]
        end = min(edge if edge > at else limit, len(raw))
        chunks.append(raw[at:end])
        heads.append(starts[bisect_left(starts, at)] == at)
        at = end
    return chunks, heads
