"""How often somebody may ask: token buckets, in memory that does not grow with who asks."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.server.refusal import RefusalError

BUCKETS_LIMIT = 20_000


class Buckets:
    """One bucket a key: `burst` tokens at first, `rate` more a second. Safe in threads."""

    def __init__(
        self,
        rate: float,
        burst: float,
        *,
        limit: int = BUCKETS_LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a token; return 0, or how many seconds it will be until there is one."""
        with self._lock:
            level, now = self._level(key)
            if level < 1:
                return (1 - level) / self._rate
            self._levels[key] = (level - 1, now)
            self._levels.move_to_end(key)
            if len(self._levels) > self._limit:
                # The one who asked longest ago: his bucket is the fullest, or nearly so.
                self._levels.popitem(last=False)
            return 0.0

    def wait(self, key: str) -> float:
        """Return in how many seconds there is a token; 0 for now. Takes none."""
        with self._lock:
            level, _ = self._level(key)
            return max(0.0, (1 - level) / self._rate)

    def __len__(self) -> int:
        return len(self._levels)

    def _level(self, key: str) -> tuple[float, float]:
        now = self._clock()
        level, then = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + (now - then) * self._rate), now


@dataclass(frozen=True)
class Limits:
    """The server's limits. Who is known and does it right is hardly ever asked to wait.

    A plan has a bucket for its batches: an agent sends at most two of progress a second. A client
    has one for what is refused and for what plans send that nobody knows here.
    """

    plans: Buckets = field(default_factory=lambda: Buckets(rate=20, burst=300))
    clients: Buckets = field(default_factory=lambda: Buckets(rate=5, burst=200))
    logins: Buckets = field(default_factory=lambda: Buckets(rate=0.2, burst=10))

    def admit_plan(self, plan: str) -> None:
        """Raise `RefusalError` 429 when a plan's machines send too often."""
        refuse(self.plans.take(plan), f"plan {plan}: sends too often")

    def admit_client(self, client: str) -> None:
        """Raise `RefusalError` 429 for a client that has used up its mistakes."""
        if client:
            refuse(self.clients.wait(client), "too many requests that came to nothing")

    def charge(self, client: str) -> None:
        """Count a mistake, or a guest; raise 429 when there were too many."""
        if client:
            refuse(self.clients.take(client), "too many requests that came to nothing")


def refuse(wait: float, message: str) -> None:
    if wait > 0:
        raise RefusalError(429, message, retry_after=wait)


def client_key(address: str) -> str:
    """Return whom an address stands for: an IPv6 network of 64 bits is one client.

    Empty, which is never limited, for loopback: that is the operator, or a proxy that was not
    named to this server, behind which a whole fleet may be.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    if found.is_loopback:
        return ""
    if found.version == 6:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
