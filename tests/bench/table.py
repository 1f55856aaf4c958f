"""The rows of issue and document, made of what the races cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

from tests.bench.names import (
    BMAPTOOL,
    CURL,
    DESYNC,
    FILESYSTEMS,
    IMAGES,
    IRONIC,
    OURS,
    PIPE,
    STAGED,
    STAGES,
    TAR,
    ZSTD,
)  # fmt: skip
from tests.bench.process import Cost
from tests.bench.rounds import Results
from tests.bench.rows import Asked, Figures, Row, below, equal, less_is_better, more_is_better

MB = 1e6
MiB = 1 << 20
DISK_MEMORY = 64 * MiB / MB
TREE_MEMORY = 100 * MiB / MB
"""Limits of resident memory, in MB as all memory here."""
MOST_NEW = 0.15


def _wall(cost: Cost) -> float:
    return cost.wall


def _cpu(cost: Cost) -> float:
    return cost.cpu


def _rss(cost: Cost) -> float:
    return cost.rss / MB


def disk_rows(results: Results, cores: int) -> list[Row]:
    """Rows of the disk image against its peers and against the bound."""
    bmaptool, ironic, desync = (_full_name(results, name) for name in (BMAPTOOL, IRONIC, DESYNC))

    def compared(row: str, peer: str, goal: float, of: Callable[[Cost], float]) -> Row:
        asked = Asked(row, goal, "CPU s" if of is _cpu else "s", peer)
        beside = {}
        if of is _cpu and {OURS, peer} <= results.costs.keys():
            whole = [median(cost.machine for cost in results.costs[name]) for name in (OURS, peer)]
            beside = {f"the whole machine with {OURS}": whole[0], "with the peer": whole[1]}
        return less_is_better(asked, results.figures(OURS, of), results.figures(peer, of), beside)

    return [
        compared("disk image, against bmaptool copy", bmaptool, 4.0, _wall),
        compared("disk image, against curl | zstd | dd", PIPE, 3.0, _wall),
        compared("disk image, CPU against curl | zstd | dd", PIPE, 2.0, _cpu),
        compared("disk image, against staging and checking first", STAGED, 4.5, _wall),
        compared("disk image, against ironic-python-agent", ironic, 7.5, _wall),
        compared("disk image, against desync extract", desync, 8.0, _wall),
        less_is_better(
            Asked("disk image, share of the bound", 0.75, "s", "CPU seconds of the stages / cores"),
            results.figures(OURS, _wall),
            bound(results, cores),
        ),
    ]


def bound(results: Results, cores: int) -> Figures:
    """Return the seconds in which perfectly spread stages would do it: no round's, but one number.

    Of each stage the least CPU seconds of all rounds, so that other load cannot raise the bound.
    """
    total = 0.0
    for stage in STAGES:
        if stage in results.missing or stage not in results.costs:
            return Figures((), f"stage {stage}: {results.missing.get(stage, 'was not run')}")
        own = [cost.cpu for cost in results.costs[stage]]
        total += min(own if stage == "start" else results.said(stage, "cpu"))
    return Figures((total / cores,))


def wire_rows(results: Results, fetched: int) -> list[Row]:
    """Row of the link: bytes of payload per second, ours and curl's."""
    asked = Asked("disk image over 1 Gbit/s, share of the wire's speed", 0.95, "MB/s", "curl")
    ours = results.figures(OURS, _wall)
    if ours.values:
        ours = Figures(tuple(fetched / MB / s for s in results.said(OURS, "worked")))
    curl = results.figures(CURL, _wall)
    if curl.values:
        curl = Figures(tuple(speed / MB for speed in results.said(CURL, "speed_download")))
    return [more_is_better(asked, ours, curl)]


def tree_rows(found: Mapping[str, Results]) -> list[Row]:
    """Rows of the tree, by file system, and of the memory it took in all of them."""
    rows = []
    for kind in FILESYSTEMS:
        results = found[kind]
        beside = {}
        if "unsquashfs" in results.costs:
            for name, of in (("s", _wall), ("CPU s", _cpu), ("MB RSS", _rss)):
                middle = median(map(of, results.costs["unsquashfs"]))
                beside[f"unsquashfs of a local image, {name}"] = middle
        asked = Asked(f"tree into {kind}, against curl | tar --zstd", 1.9, "s", TAR)
        ours, peer = results.figures(OURS, _wall), results.figures(TAR, _wall)
        rows.append(less_is_better(asked, ours, peer, beside))
    all_of_it = tuple(
        value for kind in FILESYSTEMS for value in found[kind].figures(OURS, _rss).values
    )
    memory = Figures(all_of_it, "was not run")
    asked = Asked("tree, peak RSS below 100 MB", 1.0, "MB", "100 MB")
    return [*rows, below(asked, memory, 100.0)]


def memory_rows(results: Results) -> list[Row]:
    """Rows of the memory by the image's size."""
    rows = []
    for name in IMAGES:
        limit = DISK_MEMORY if name.endswith("disk") else TREE_MEMORY
        text = "64 MiB" if name.endswith("disk") else "100 MiB"
        asked = Asked(f"peak RSS, {_size(name)}, below {text}", 1.0, "MB", text)
        rows.append(below(asked, results.figures(name, _rss), limit))
    for kind in ("disk", "tree"):
        asked = Asked(f"peak RSS, {kind} of 8 GB and of 1 GB equal", 0.9, "MB", "1 GB")
        large, small = (results.figures(f"{size} {kind}", _rss) for size in ("large", "small"))
        rows.append(equal(asked, large, small))
    return rows


def pack_rows(results: Results) -> list[Row]:
    """Row of packing."""
    asked = Asked("pack, against zstd -T0 and sha256sum", 1.0, "s", ZSTD)
    return [less_is_better(asked, results.figures(OURS, _wall), results.figures(ZSTD, _wall))]


def repack_rows(new: Figures, full: Figures) -> list[Row]:
    """Row of packing again: bytes of chunks that are new, and of all."""
    asked = Asked(
        "re-pack after one package changed, 15 % new bytes at most", 1 / MOST_NEW, "MB", "full size"
    )
    return [less_is_better(asked, new, full)]


def _size(name: str) -> str:
    size, kind = name.split()
    return f"{kind} of {'1' if size == 'small' else '8'} GB"


def _full_name(results: Results, name: str) -> str:
    """Return the name with the version, as the race knows the program."""
    known = (*results.costs, *results.missing)
    return next((each for each in known if each.startswith(name)), name)
