"""Which mirror to ask next: the first healthy one, in the operator's order.

A mirror that failed rests for a while, longer each time; one that keeps giving wrong answers is
dropped; one that delivered a bad chunk comes last from then on. Shared by all connections.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.payload.trouble import Corrupt, Passing, Trouble, Unranged, Wrong

FIRST_REST, LONGEST_REST = 0.25, 30.0
"""Seconds that a mirror is left alone after its first failure, and at most."""
WRONG_ANSWERS = 4
"""Wrong answers in a row, each after a rest, that make us drop a mirror."""
DIGEST = "{sha256}"
"""Stands for a chunk's digest in the address of a mirror that keeps each chunk as its own file."""
CORRUPT_TRIES = 2
"""How often one mirror may deliver one chunk with a bad digest."""


@dataclass
class Mirror:
    """One address of the payload, and what is known of it.

    `url` is the file of frames, or has `{sha256}` in it where every frame is a file of its own.
    """

    url: str
    ranged: bool = True
    etag: str | None = None
    corrupt: int = 0
    """Chunks that came with a bad digest."""
    received: int = 0
    """Bytes of verified frames."""
    said: str = ""
    """What went wrong last."""
    dropped: bool = False
    replaced: int = 0
    """How often its ETag changed under us."""
    failures: int = 0
    """Failures in a row."""
    wakes: float = 0.0
    rested: float = 0.0

    @property
    def by_digest(self) -> bool:
        """Whether each chunk is a file of its own (a blob of a registry), not part of one."""
        return DIGEST in self.url


class NoMirrorError(Exception):
    """Every mirror was dropped, or gave this chunk wrong as often as it may."""


class NoRangesError(Exception):
    """The mirrors that are left send the whole payload only: one connection, front to back."""


@dataclass
class Mirrors:
    """All mirrors of one payload. Thread-safe."""

    all: Sequence[Mirror]
    sequential: bool = False
    """Whether mirrors without ranges may be used: one connection, front to back."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, urls: Sequence[str]) -> Mirrors:
        return cls(tuple(Mirror(url) for url in dict.fromkeys(urls)))

    def pick(self, corrupt: Mapping[str, int]) -> Mirror:
        """Return the mirror to ask now; `corrupt` counts this chunk's bad deliveries by URL.

        Raises `Passing` when all rest (see `nap`), and `NoRangesError` or `NoMirrorError`.
        """
        with self._lock:
            usable = self._usable(corrupt)
            awake = [mirror for mirror in usable if mirror.wakes <= time.monotonic()]
            if not awake:
                raise Passing("rests")
            return min(awake, key=lambda m: (corrupt.get(m.url, 0), not m.ranged, m.corrupt))

    def nap(self, corrupt: Mapping[str, int]) -> float:
        """Return in how many seconds `pick` may have a mirror."""
        with self._lock:
            wakes = [mirror.wakes for mirror in self._usable(corrupt)]
        return max(0.0, min(wakes) - time.monotonic())

    def failed(self, mirror: Mirror, trouble: Trouble, began: float) -> None:
        """Note what came of a request that was sent at `began` (time.monotonic)."""
        with self._lock:
            mirror.said = str(trouble)
            if isinstance(trouble, Unranged):
                mirror.ranged = False
            elif isinstance(trouble, Corrupt):
                mirror.corrupt += 1
            elif began >= mirror.rested:  # else one incident, seen by several connections
                mirror.failures += 1
                rest = min(LONGEST_REST, FIRST_REST * 2 ** (mirror.failures - 1))
                rest *= random.uniform(0.5, 1.0)  # noqa: S311  # 170 machines must not come back as one
                if isinstance(trouble, Passing) and trouble.rest is not None:
                    rest += trouble.rest
                mirror.rested = time.monotonic()
                mirror.wakes = mirror.rested + rest
                mirror.dropped = isinstance(trouble, Wrong) and mirror.failures >= WRONG_ANSWERS

    def delivered(self, mirror: Mirror, size: int) -> None:
        """Note a verified chunk of `size` stored bytes."""
        with self._lock:
            mirror.failures = 0
            mirror.wakes = 0.0
            mirror.received += size

    def _usable(self, corrupt: Mapping[str, int]) -> list[Mirror]:
        usable = [
            mirror
            for mirror in self.all
            if not mirror.dropped and corrupt.get(mirror.url, 0) < CORRUPT_TRIES
        ]
        if not usable:
            raise NoMirrorError
        ranged = [mirror for mirror in usable if mirror.ranged]
        if not ranged and not self.sequential:
            raise NoRangesError
        return ranged or usable
