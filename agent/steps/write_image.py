"""Lay the image over the mounted volumes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agent.layout.extents import gib
from agent.machine import Machine, Progress
from agent.payload.fetch import Source
from agent.payload.manifest import Manifest
from agent.steps.base import Evidence


@dataclass(frozen=True)
class WriteImage:
    """Stream the tree: fetched, verified chunk by chunk, unpacked; nothing is staged."""

    manifest: Manifest
    source: Source
    root: Path

    name: ClassVar[str] = "write-image"
    unit: ClassVar[str] = "bytes"

    def describe(self) -> str:
        return f"Write the image {self.manifest.name} ({gib(self.manifest.size)})"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        began = time.monotonic()
        machine.images.lay(self.manifest, self.source, self.root, progress)
        seconds = max(time.monotonic() - began, 0.001)
        return {
            "image": self.manifest.name,
            "manifest": self.source.manifest_url,
            "signed_by": self.source.key,
            "sha256": self.manifest.sha256,
            "size": self.manifest.size,
            "stored": self.manifest.payload.size,
            "rate": round(self.manifest.size / seconds),
        }
