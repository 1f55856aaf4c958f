"""Lay the image over the mounted volumes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agent.layout.extents import gib
from agent.machine import Machine, Progress
from agent.payload.described import Described
from agent.payload.fetch import Source
from agent.payload.stream import Tally
from agent.steps.base import Evidence, Json


def mirrors_of(tally: Tally) -> list[Json]:
    """Return what the install report says of each mirror, in the order they were given."""
    return [
        {"url": url, "bytes": size, "corrupt": tally.corrupt.get(url, 0)}
        for url, size in tally.received.items()
    ]


def _vouched(source: Source) -> Evidence:
    """Return who says that this is the image: a key, or the plan by a container's digest."""
    if source.layers:
        return {"layers": list(source.layers)}
    return {"signed_by": source.key}


@dataclass(frozen=True)
class WriteImage:
    """Stream the tree: fetched, verified chunk by chunk, unpacked; nothing is staged."""

    manifest: Described
    source: Source
    root: Path
    name: str = "write-image"
    over: str = ""
    """Name of the image that this one is laid over; empty for the first."""

    unit: ClassVar[str] = "bytes"

    def describe(self) -> str:
        image = f"{self.manifest.name} ({gib(self.manifest.size)})"
        return (
            f"Lay the image {image} over {self.over}" if self.over else f"Write the image {image}"
        )

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        began = time.monotonic()
        tally = machine.images.lay(self.manifest, self.source, self.root, progress)
        seconds = max(time.monotonic() - began, 0.001)
        return {
            "image": self.manifest.name,
            "manifest": self.source.manifest_url,
            **_vouched(self.source),
            "sha256": self.manifest.sha256,
            "size": self.manifest.size,
            "stored": self.manifest.payload.size,
            "rate": round(self.manifest.size / seconds),
            "mirrors": mirrors_of(tally),
        }
