"""Which mirror to ask next: the healthy ones in proportion to how fast they are.

Chunks leave in order, so one that comes slowly holds up those behind it: a mirror that is less than
half as fast as the fastest is only probed now and then. Between equals the operator's order counts.
A mirror that failed rests for a while, longer each time; one that keeps giving wrong answers is
dropped; one that delivered a bad chunk comes last from then on. Shared by all connections.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
MEMORY = 0.7
"""What a measured speed still counts when the next request of the mirror has been measured."""
TELLING = 32 << 10
"""Bytes of an answer below which its time is that of a round trip, and says nothing of speed."""
SLOW = 0.5
"""Part of the fastest mirror's speed below which a mirror is only probed."""
PROBE_EVERY = 15.0
"""Seconds after which a mirror is asked again, however slow it was: it may have recovered."""


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
    asked: float | None = None
    """When it was picked last."""
    turn: float = 0.0
    """What it is owed of the work, in shares of a chunk."""
    _bytes: float = 0.0
    _seconds: float = 0.0

    @property
    def speed(self) -> float | None:
        """Bytes a second on one connection, as a moving average; None before the first request.

        A quotient of two averages and not an average of quotients: the waiting that a tiny frame
        takes as well as a large one does not count for more than it is.
        """
        return self._bytes / self._seconds if self._seconds else None

    def measured(self, size: int, seconds: float) -> None:
        if size < TELLING and seconds < 1.0:
            if self.speed is None:
                self.asked = None  # the next chunk may tell more
            return
        self._bytes = MEMORY * self._bytes + size
        self._seconds = MEMORY * self._seconds + max(seconds, 1e-6)

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
    clock: Callable[[], float] = time.monotonic
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
            now = self.clock()
            awake = [mirror for mirror in usable if mirror.wakes <= now]
            if not awake:
                raise Passing("rests")
            rank = {m.url: (corrupt.get(m.url, 0), not m.ranged, m.corrupt) for m in awake}
            best = min(rank.values())
            mirror = _turn([m for m in awake if rank[m.url] == best], now)
            mirror.asked = now
            return mirror

    def rival(self, mirror: Mirror, corrupt: Mapping[str, int]) -> float:
        """Return the speed of the fastest other mirror that could be asked now, 0 if none can."""
        with self._lock:
            now = self.clock()
            others = [
                m.speed or 0.0
                for m in self._usable(corrupt)
                if m is not mirror and m.wakes <= now and m.corrupt <= mirror.corrupt
            ]
        return max(others, default=0.0)

    def nap(self, corrupt: Mapping[str, int]) -> float:
        """Return in how many seconds `pick` may have a mirror."""
        with self._lock:
            wakes = [mirror.wakes for mirror in self._usable(corrupt)]
        return max(0.0, min(wakes) - self.clock())

    def failed(self, mirror: Mirror, trouble: Trouble, began: float) -> None:
        """Note what came of a request that was sent at `began` (of the clock)."""
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
                mirror.rested = self.clock()
                mirror.wakes = mirror.rested + rest
                mirror.dropped = isinstance(trouble, Wrong) and mirror.failures >= WRONG_ANSWERS

    def measured(self, mirror: Mirror, size: int, seconds: float) -> None:
        """Note that one request brought `size` bytes in so many seconds, whole or not."""
        with self._lock:
            mirror.measured(size, seconds)
            if size:  # it gets on: a proxy that cuts long answers is not to rest ever longer
                mirror.failures = 0

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


def _turn(mirrors: Sequence[Mirror], now: float) -> Mirror:
    """Return whose turn it is among mirrors that are equally well; given in the operator's order.

    A smooth weighted round: every mirror is owed its share of the chunk, and the one that is owed
    most takes it. What is owed never exceeds a chunk, so no mirror hoards turns while it rests.
    """
    fastest = max(mirror.speed or 0.0 for mirror in mirrors)
    for mirror in mirrors:
        if mirror.asked is None or now - mirror.asked >= PROBE_EVERY:
            return mirror
    # One that has not answered yet gets no more to do while another has shown what it can.
    known = [m for m in mirrors if m.speed is not None and m.speed >= SLOW * fastest]
    workers = known or mirrors
    weights = [mirror.speed or 1.0 for mirror in workers]
    total = sum(weights)
    for mirror, weight in zip(workers, weights, strict=True):
        mirror.turn = min(1.0, mirror.turn + weight / total)
    chosen = max(workers, key=lambda mirror: round(mirror.turn, 6))
    chosen.turn -= 1.0
    return chosen
