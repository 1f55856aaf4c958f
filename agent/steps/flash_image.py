"""Write an image of a whole disk to its device, and prove it; the last write makes it bootable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from agent.inventory.model import Marker
from agent.layout.extents import gib
from agent.layout.whole import Whole
from agent.machine import Machine, Progress
from agent.payload.direct import Target
from agent.payload.disk import Verify
from agent.payload.fetch import Source
from agent.payload.gpt import Partition
from agent.payload.manifest import Manifest
from agent.payload.stamp import Stamp
from agent.steps.base import Evidence
from agent.target import marker

BY_PARTUUID = Path("/dev/disk/by-partuuid")


@dataclass(frozen=True)
class FlashImage:
    """`note` is the marker without the time; `esp` the image's ESP."""

    manifest: Manifest
    source: Source
    whole: Whole
    verify: Verify
    note: Marker
    esp: Partition | None

    name: ClassVar[str] = "flash-image"
    unit: ClassVar[str] = "bytes"

    def describe(self) -> str:
        proof = "all of it" if self.verify == "full" else "a sample"
        return (
            f"Write the image {self.manifest.name} ({gib(self.manifest.size)}) to "
            f"{self.whole.device} and read back {proof}"
        )

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        stamp = Stamp(self.whole.stamp, self._marker)
        legs = self.whole.arrays[0].members if self.whole.arrays else ()
        target = Target(self.whole.device, self.whole.size, legs=legs)
        done = machine.images.flash(
            self.manifest, self.source, target, stamp, verify=self.verify, progress=progress
        )
        machine.storage.reread(self.whole.device, list(self._links()))
        return {
            "image": self.manifest.name,
            "manifest": self.source.manifest_url,
            "signed_by": self.source.key,
            "sha256": self.manifest.sha256,
            "size": self.manifest.size,
            "stored": self.manifest.payload.size,
            "device": str(self.whole.device),
            "written": done.written,
            "zeroed": done.zeroed,
            "zeroed_by": done.zeroed_by,
            "past_the_page_cache": done.direct,
            "read_back": {"how": done.verified, "bytes": done.read_back},
            "backup_table_at": done.backup_table_at,
            "rate": round(self.manifest.size / max(done.seconds, 0.001)),
            "mirrors": {url: size for url, size in done.received.items() if size},
            "corrupt": dict(done.corrupt),
        }

    def _links(self) -> Iterator[Path]:
        """Yield what udev shows when it has read the image's table.

        Of an array's partitions only those with a file system get a link by their PARTUUID, ours
        has none; by number they all do (mdadm's 63-md-raid-arrays.rules).
        """
        if self.whole.arrays:
            yield self.whole.device
            if self.esp:
                yield Path(f"{self.whole.device}{self.esp.number}")
            return
        yield BY_PARTUUID / str(self.whole.stamp)
        if self.esp:
            yield BY_PARTUUID / str(self.esp.partuuid)

    def _marker(self) -> bytes:
        done = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "esp": self.esp.partuuid if self.esp else None,
        }
        return marker.render(self.note.model_copy(update=done))
