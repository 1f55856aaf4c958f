"""Which plans have news, for whoever waits: numbered, bounded, safe across threads and loops.

The store calls `bump(plan)` once events are stored, from any thread. A reader keeps the number it
has seen, waits for a higher one, and asks `since` which plans changed in between. A plan that
changed a hundred times meanwhile is named once: a slow reader has no queue that could grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

PLANS_LIMIT = 20_000
"""Plans remembered; a reader who has missed a forgotten one is told that it missed something."""


@dataclass(eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        # A loop that was closed with its reader still in the list wakes nobody.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.woken.set)


class Changes:
    """The numbers of the latest change of each plan."""

    def __init__(self, limit: int = PLANS_LIMIT) -> None:
        self.epoch = secrets.token_hex(4)
        """Tells the numbers of this server's life from those of another one."""
        self._limit = limit
        self._lock = threading.Lock()
        self._version = 0
        self._floor = 0
        self._latest: OrderedDict[str, int] = OrderedDict()
        self._waiters: set[_Waiter] = set()

    def bump(self, plan: str) -> None:
        """Say that there is something new about `plan`. Cheap; from any thread."""
        with self._lock:
            self._version += 1
            self._latest[plan] = self._version
            self._latest.move_to_end(plan)
            if len(self._latest) > self._limit:
                _, self._floor = self._latest.popitem(last=False)
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.wake()

    @property
    def version(self) -> int:
        """The number of the latest change; 0 before the first."""
        with self._lock:
            return self._version

    def since(self, version: int) -> tuple[int, frozenset[str] | None]:
        """Return the latest number, and the plans that changed after `version`.

        None instead of the plans means that too much was forgotten, or that `version` is not of
        this server's life: read everything anew.
        """
        with self._lock:
            if not self._floor <= version <= self._version:
                return self._version, None
            plans: set[str] = set()
            for plan in reversed(self._latest):
                if self._latest[plan] <= version:
                    break
                plans.add(plan)
            return self._version, frozenset(plans)

    async def wait(self, version: int, timeout: float | None = None) -> bool:
        """Return True once there is a change after `version`; False after `timeout` seconds."""
        waiter = _Waiter(asyncio.get_running_loop())
        with self._lock:
            if self._version != version:
                return True
            self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter.woken.wait()
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiters.discard(waiter)
        return True
