"""Write a disk image to a block device: verified before it is written, proven before it may boot.

    1. the device's first and last MiB are made zero: from here on nothing starts from it
    2. threads bring, verify, decode and write chunks in any order; zero stretches are made zero
    3. everything is flushed, and read back past the page cache, of a mirror from each of its disks
    4. the end of the image, the backup table, and last the first MiB are written and read back

So a run that fails, whenever it does, leaves a disk without a partition table.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.errors import ImageError, StepError
from agent.payload.crew import Crew
from agent.payload.direct import ALIGNMENT, Device, Target, opened
from agent.payload.ends import END, Ends
from agent.payload.fetch import Source
from agent.payload.manifest import Manifest
from agent.payload.mirrors import Mirrors
from agent.payload.options import FetchOptions
from agent.payload.readback import Sample, prove_whole
from agent.payload.stamp import Stamp, place
from agent.payload.stream import Tally
from agent.payload.zero import Zeroes, stretches

Verify = Literal["sample", "full"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FlashOptions:
    """How to write: `verify` is what is read back, `stamp` what is left behind the image."""

    fetch: FetchOptions = field(default_factory=FetchOptions)
    verify: Verify = "sample"
    stamp: Stamp | None = None


@dataclass(frozen=True)
class Flashed:
    """What was done, for the report. Bytes and seconds."""

    device: Path
    written: int
    zeroed: int
    zeroed_by: str
    direct: bool
    """Whether the page cache was bypassed."""
    verified: Verify
    read_back: int
    backup_table_at: int | None
    """Where the image's backup table is now; None for an image without one."""
    seconds: float
    received: dict[str, int]
    corrupt: dict[str, int]


def faults(manifest: Manifest) -> Sequence[str]:
    """Return why a manifest's image cannot be written to a disk; nothing else looks again."""
    found = []
    if manifest.kind != "disk":
        found.append(f"is a {manifest.kind}, not a whole disk")
    displaced = (n for n, chunk in enumerate(manifest.chunks) if chunk.offset % ALIGNMENT)
    if (number := next(displaced, None)) is not None:
        offset = manifest.chunks[number].offset
        found.append(f"chunk {number} begins at {offset}, must be a multiple of {ALIGNMENT}")
    return found


def flash(
    manifest: Manifest,
    source: Source,
    target: Target,
    options: FlashOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Flashed:
    """Write the image to the device; the device must be as large, and nobody else may use it.

    `progress` counts bytes of the image, and once more those that are read back. Raises
    `ImageError` for what the mirrors did and `StepError` for what the device did; its first and
    last MiB are zero then.
    """
    options = options or FlashOptions()
    for fault in faults(manifest):
        raise ImageError(f"image {manifest.name}: {fault}")
    began = time.monotonic()
    with opened(target) as device:
        _room(manifest, device, options.stamp)
        with Ends(manifest, device, options.stamp) as ends:
            writer = _Writer(manifest, device, ends, options, progress)
            tally = Tally()
            try:
                ends.begin()
                writer.fill(source, tally)
                read = writer.prove()
                table_at = ends.finish()
                writer.tell_all()
            except BaseException:
                with suppress(StepError):  # what went wrong before is what the operator must hear
                    ends.wipe()
                raise
        return Flashed(
            device=target.path,
            written=writer.written,
            zeroed=writer.zeroes.made,
            zeroed_by=writer.zeroes.how if writer.zeroes.made else "",
            direct=device.direct,
            verified=options.verify,
            read_back=read,
            backup_table_at=table_at,
            seconds=time.monotonic() - began,
            received=tally.received,
            corrupt=tally.corrupt,
        )


def _room(manifest: Manifest, device: Device, stamp: Stamp | None) -> None:
    need = -(-manifest.size // device.sector) * device.sector
    if stamp is not None and place(device.size) < need:
        need += device.size - place(device.size)
    if device.size < max(need, 2 * END):
        raise StepError(
            f"{device.path}: has {device.size} bytes, the image {manifest.name} needs "
            f"{max(need, 2 * END)}"
        )


class _Writer:
    """One image on its way to one device: everything between its ends."""

    def __init__(
        self,
        manifest: Manifest,
        device: Device,
        ends: Ends,
        options: FlashOptions,
        progress: Progress,
    ) -> None:
        self.written = 0
        self.zeroes = Zeroes(device)
        self._manifest, self._device, self._ends, self._options = manifest, device, ends, options
        self._tell, self._told = progress, 0
        self._lock = threading.Lock()
        again = ends.last - ends.first if options.verify == "full" else 0
        self._total = manifest.size + again * len(device.proven_by)
        self._sample = Sample.of(manifest, ends.first, ends.last)

    def fill(self, source: Source, tally: Tally) -> None:
        """Write everything but the ends, which are kept."""
        total = self._options.fetch.total
        until = math.inf if total is None else time.monotonic() + total
        mirrors = Mirrors.of(source.payload_urls)
        crew = Crew(self._manifest, source, self._options.fetch, mirrors, until=until)
        numbers = [n for n, chunk in enumerate(self._manifest.chunks) if not chunk.zero]
        left = deque(stretches(self._manifest.chunks, self._ends.first, self._ends.last))

        def zero(stopped: threading.Event) -> None:
            while left and not stopped.is_set():
                offset, length = left.popleft()
                for done in self.zeroes.make(offset, length, stopped):
                    offset, length = offset + done, length - done
                    self._progress(done)
                if length:
                    left.appendleft((offset, length))

        try:
            crew.bring(numbers, self._use, zero)
        finally:
            tally.note(mirrors)

    def _use(self, number: int, content: memoryview) -> None:
        """Write a chunk, without what of it belongs to an end."""
        offset = self._manifest.chunks[number].offset
        low, high = self._ends.keep(offset, content)
        if low < high:
            self._sample.note(number, content)
            with content[low - offset : high - offset] as middle:
                self._device.write(low, middle)
        with self._lock:
            self.written += max(0, high - low)
        self._progress(len(content))

    def prove(self) -> int:
        """Have everything on the device and read it back; return the bytes that were read."""
        self._device.flush()
        return sum(map(self._prove, self._device.proven_by))

    def _prove(self, device: Device) -> int:
        if self._options.verify == "sample":
            return self._sample.prove(device)
        return prove_whole(device, self._manifest, self._ends, self._progress)

    def tell_all(self) -> None:
        self._progress(self._total - self._told)

    def _progress(self, done: int) -> None:
        with self._lock:
            self._told += done
            self._tell(self._told, self._total)
