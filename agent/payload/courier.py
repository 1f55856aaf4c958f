"""Bring one chunk of an image, verified and decoded, whatever the mirrors do.

The frame's sha256 is checked before a byte of it is decoded. What a broken connection brought is
kept and the rest asked for, as long as it is the same mirror: a bad digest is then that mirror's.
"""

from __future__ import annotations

import math
import mmap
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256

from agent.errors import ImageError
from agent.payload.client import Client, Filling
from agent.payload.decode import Decoder
from agent.payload.manifest import Chunk, Manifest
from agent.payload.mirrors import Mirror, Mirrors, NoMirrorError
from agent.payload.options import FetchOptions
from agent.payload.reader import Reader, Replaced
from agent.payload.trouble import Corrupt, Slow, Trouble

SLOWER = 4.0
"""How many times longer than another mirror would take, a mirror may take for a chunk."""

KEPT = 1 << 20
"""Bytes of memory that stay with a courier between two chunks; a multiple of any page."""


@dataclass
class _Errand:
    """One chunk on its way: until when, how far it is, who failed at it and how."""

    number: int
    chunk: Chunk
    until: float
    frame: memoryview
    filling: Filling
    mirror: Mirror | None = None
    corrupt: Counter[str] = field(default_factory=Counter)
    said: dict[str, str] = field(default_factory=dict)


class Courier:
    """One thread's connection, decoder and buffer.

    `origins` may be sent the bearer token. `until` (time.monotonic) is the end of the whole stream.
    `stopped` is set when nobody wants the chunks any more.
    """

    def __init__(
        self,
        manifest: Manifest,
        mirrors: Mirrors,
        options: FetchOptions,
        *,
        origins: frozenset[str],
        until: float,
        stopped: threading.Event,
    ) -> None:
        self._manifest, self._mirrors, self._options = manifest, mirrors, options
        self._until, self._stopped = until, stopped
        self._client = Client(options, origins)
        self._reader = Reader(self._client, manifest.payload.size)
        self._decoder = Decoder(manifest.chunk_size)
        # As large as any frame is, but memory only where one has been.
        most = max(chunk.stored for chunk in manifest.chunks)
        self._memory = mmap.mmap(-1, most, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def bring(self, number: int, into: memoryview) -> None:
        """Fill `into` with the bytes of chunk `number`, or raise `ImageError` or `NoRangesError`.

        Done or failed within `FetchOptions.patience`.
        """
        chunk = self._manifest.chunks[number]
        with memoryview(self._memory)[: chunk.stored] as frame:
            self.fetch(number, frame)
            self.decode(number, frame, into)
        if chunk.stored > KEPT:  # the few that did not compress would stay in memory to the end
            self._memory.madvise(mmap.MADV_DONTNEED, KEPT, len(self._memory) - KEPT)

    def fetch(self, number: int, frame: memoryview) -> None:
        """Fill `frame` with that of chunk `number`, verified: half of `bring`."""
        chunk = self._manifest.chunks[number]
        until = min(self._until, time.monotonic() + self._options.patience)
        self._fetch(_Errand(number, chunk, until, frame, Filling(frame)))

    def decode(self, number: int, frame: memoryview, into: memoryview) -> None:
        """Fill `into` with the bytes of chunk `number`, whose verified frame is given."""
        try:
            self._decoder.decode(frame, into)
        except ImageError as error:
            raise ImageError(f"{self._place(number)}: its frame {error}") from None

    def abort(self) -> None:
        """Break off what `bring` is waiting for in another thread."""
        self._client.abort()

    def close(self) -> None:
        self._reader.close()
        self._client.close()

    def _fetch(self, errand: _Errand) -> None:
        """Have the errand's frame in its buffer, with the right digest."""

        def nap(_: object) -> float:
            return self._mirrors.nap(errand.corrupt)

        def sleep(seconds: float) -> None:
            self._stopped.wait(seconds)

        def too_late(_: object) -> bool:
            # A try that is cut shorter than `stall` would only blame the mirror for our hurry.
            earliest_end = time.monotonic() + nap(_) + self._options.stall
            return self._stopped.is_set() or earliest_end >= errand.until

        try:
            try:  # which is nearly always all, and then costs no more than it must
                self._try(errand)
            except Trouble:
                if too_late(None):
                    raise
                sleep(nap(None))
                # Here and not above: hardly any machine needs it.
                from tenacity import Retrying, retry_if_exception_type

                retrying = Retrying(
                    retry=retry_if_exception_type(Trouble),
                    wait=nap,
                    stop=too_late,
                    sleep=sleep,
                    reraise=True,
                )
                retrying(self._try, errand)
        except NoMirrorError:
            raise ImageError(self._failure(errand, "no mirror has it")) from None
        except Trouble:
            why = f"not to be had within {self._options.patience:g} s"
            if errand.until == self._until:
                why = f"not there when the {self._options.total:g} s for all were over"
            raise ImageError(self._failure(errand, why)) from None

    def _try(self, errand: _Errand) -> None:
        mirror = self._mirrors.pick(errand.corrupt)
        if mirror is not errand.mirror:
            errand.mirror, errand.filling.done = mirror, 0
        began = self._mirrors.clock()
        fresh = errand.corrupt[mirror.url] > 0
        try:
            self._read(errand, mirror, fresh=fresh)
            self._verify(errand)
        except Trouble as trouble:
            if isinstance(trouble, (Corrupt, Replaced)):
                errand.filling.done = 0
            if isinstance(trouble, Corrupt):
                errand.corrupt[mirror.url] += 1
            errand.said[mirror.url] = str(trouble)
            self._mirrors.failed(mirror, trouble, began)
            if not self._stopped.is_set():
                self._options.warn(f"{mirror.url}: {trouble} (chunk {errand.number})")
            raise
        self._mirrors.delivered(mirror, errand.chunk.stored)

    def _read(self, errand: _Errand, mirror: Mirror, *, fresh: bool) -> None:
        """Make one request, and note how fast it was.

        It is broken off where another mirror would have been done long ago: a trickle that never
        ends would otherwise hold up every chunk behind this one.
        """
        chunk, began, had = errand.chunk, time.monotonic(), errand.filling.done

        def moment() -> float:
            # Read from front to back, a mirror has no rival: leaving it means starting again.
            rival = self._mirrors.rival(mirror, errand.corrupt) if mirror.ranged else 0.0
            # A frame of a few bytes takes a round trip all the same.
            least = self._options.stall / 4
            return began + max(least, SLOWER * chunk.stored / rival) if rival else math.inf

        seconds = min(self._options.request, errand.until - began)
        slow = None
        try:
            with self._client.hurried(moment):
                self._reader.read(mirror, chunk, errand.filling, seconds=seconds, fresh=fresh)
        except Slow as trouble:
            slow = trouble
            raise Slow(
                f"brought {errand.filling.done} of {chunk.stored} bytes in "
                f"{time.monotonic() - began:.3g} s, another mirror is faster"
            ) from None
        finally:
            brought = max(0, errand.filling.done - had)
            if brought or slow:
                self._mirrors.measured(mirror, brought, time.monotonic() - began)

    def _verify(self, errand: _Errand) -> None:
        chunk = errand.chunk
        digest = sha256(errand.frame).hexdigest()
        if digest != chunk.sha256:
            raise Corrupt(
                f"sent bytes {chunk.at} to {chunk.at + chunk.stored - 1} with sha256 {digest}, "
                f"must be {chunk.sha256}"
            )

    def _failure(self, errand: _Errand, why: str) -> str:
        said = (
            f"{mirror.url}: {errand.said.get(mirror.url) or mirror.said or 'was not asked'}"
            for mirror in self._mirrors.all
        )
        return f"{self._place(errand.number)}: {why}; " + "; ".join(said)

    def _place(self, number: int) -> str:
        return (
            f"image {self._manifest.name}: chunk {number} "
            f"(bytes from {self._manifest.chunks[number].offset} of {self._manifest.size})"
        )
