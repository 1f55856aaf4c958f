"""Read back what was written, past every cache on this side, before it may boot.

Either a sample, of places chosen by chance before the first write, with digests taken while
writing; or every byte, against the digest of the image in its manifest.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256

from agent.errors import StepError
from agent.payload.direct import ALIGNMENT, Device, pages
from agent.payload.ends import Ends
from agent.payload.manifest import Manifest

PLACES = 64
"""Chunks of a sample that were written, and as many again at most that were zeroed."""
WINDOW = 256 << 10
"""Bytes that are looked at in each."""
READERS = 2
"""Threads that read a sample: nothing else is done then."""
_ZEROS = bytes(WINDOW)
PIECE = 4 << 20
AHEAD = 3
"""Pieces read ahead of the digest."""


@dataclass
class Sample:
    """What to look at, chunk by chunk, and what must be there. Thread-safe.

    `windows` are (offset, length) in the image by chunk number.
    """

    manifest: Manifest
    windows: dict[int, tuple[int, int]]
    _digests: dict[int, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, manifest: Manifest, first: int, end: int) -> Sample:
        """Choose places from `first` to `end`; the ends of the image are proven by themselves."""
        # Not the seeded generator: what is looked at must not be known beforehand.
        chance = random.SystemRandom()
        windows: dict[int, tuple[int, int]] = {}
        for zero in (False, True):
            numbers = [n for n, chunk in enumerate(manifest.chunks) if chunk.zero is zero]
            for number in chance.sample(numbers, min(PLACES, len(numbers))):
                chunk = manifest.chunks[number]
                low, high = max(first, chunk.offset), min(end, chunk.offset + chunk.length)
                length = min(WINDOW, (high - low) // ALIGNMENT * ALIGNMENT)
                if length > 0:
                    steps = (high - low - length) // ALIGNMENT
                    windows[number] = low + chance.randint(0, steps) * ALIGNMENT, length
        return cls(manifest, windows)

    def note(self, number: int, content: memoryview) -> None:
        """Take the digest of a chunk's window, if it has one, from what is being written."""
        if number in self.windows:
            offset, length = self.windows[number]
            begin = offset - self.manifest.chunks[number].offset
            digest = sha256(content[begin : begin + length]).digest()
            with self._lock:
                self._digests[number] = digest

    def prove(self, device: Device) -> int:
        """Compare every place with the device; return the bytes read, or raise `StepError`."""
        places = sorted(self.windows.items())
        with ThreadPoolExecutor(READERS, "read") as pool:
            parts = (places[first::READERS] for first in range(READERS))
            return sum(pool.map(lambda part: self._prove(device, part), parts))

    def _prove(self, device: Device, places: Sequence[tuple[int, tuple[int, int]]]) -> int:
        read = 0
        with pages(WINDOW) as buffer, memoryview(buffer) as view:
            for number, (offset, length) in places:
                with view[:length] as window:
                    device.read(offset, window)
                    if self._wrong(number, window):
                        raise StepError(
                            f"{device.path}: reads back other bytes from {offset} to "
                            f"{offset + length - 1} than were written there"
                        )
                read += length
        return read

    def _wrong(self, number: int, window: memoryview) -> bool:
        if self.manifest.chunks[number].zero:
            return bytes(window) != _ZEROS[: len(window)]
        return sha256(window).digest() != self._digests[number]


def prove_whole(
    device: Device, manifest: Manifest, ends: Ends, progress: Callable[[int], None]
) -> int:
    """Compare the whole image with its digest; return the bytes read, or raise `StepError`.

    The ends are not written yet; each is proven by itself when it is.
    """
    digest = sha256(ends.head)
    for content in _pieces(device, ends.first, ends.last):
        digest.update(content)
        progress(len(content))
    digest.update(ends.tail)
    if digest.hexdigest() != manifest.sha256:
        raise StepError(
            f"{device.path}: reads back an image with sha256 {digest.hexdigest()}, "
            f"{manifest.name} has {manifest.sha256}"
        )
    return ends.last - ends.first


def _pieces(device: Device, first: int, end: int) -> Iterator[memoryview]:
    """Yield the device's content in order; a thread reads ahead of who hashes."""
    places = deque((at, min(PIECE, end - at)) for at in range(first, end, PIECE))
    buffers = [pages(PIECE) for _ in range(AHEAD)]
    free = [memoryview(buffer) for buffer in buffers]
    waiting: deque[tuple[memoryview, int, Future[None]]] = deque()
    pool = ThreadPoolExecutor(1, "read")
    try:
        while places or waiting:
            while places and free:
                (at, length), whole = places.popleft(), free.pop()
                waiting.append((whole, length, pool.submit(device.read, at, whole[:length])))
            whole, length, done = waiting.popleft()
            done.result()
            yield whole[:length]
            free.append(whole)
    finally:
        pool.shutdown(cancel_futures=True)
