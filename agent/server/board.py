"""The fleet as its viewers see it: every row rendered once, whoever looks and however many.

While somebody looks, one task renders what changed, at most once a second, into a numbered frame.
Viewers send the frames they have not had; one that comes back, or cannot keep up, gets those it
missed while they are kept, else the whole fleet anew. Nobody has a queue of his own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Any, Protocol

from agent.server.changes import Changes
from agent.server.events import Row
from agent.server.overview import Durations, Entry, Log, entry, totals

TICK = 1.0
"""Least seconds between two frames."""
SWEEP = 5.0
"""Seconds between two looks at all rows: for new plans, and for machines that fell silent."""
BEAT = 10.0
"""Seconds of quiet after which a viewer is told that the server is there."""
MANY = 50
"""Changed rows that are asked for one by one; for more of them all are read at once."""
FRAMES_KEPT = 120
BYTES_KEPT = 8 * 1024 * 1024


class Fleet(Protocol):
    """Where the rows come from: the store."""

    def rows(self) -> Iterable[Row]: ...
    def log_of(self, plan: str) -> Log | None: ...
    def lines(self, plan: str) -> Iterable[bytes] | None: ...


class Board:
    """What is shown now, and the frames that led there. `frames` is for one event loop."""

    def __init__(
        self,
        fleet: Fleet,
        changes: Changes,
        *,
        clock: Callable[[], float] = time.time,
        tick: float = TICK,
        beat: float = BEAT,
    ) -> None:
        self.fleet = fleet
        self._changes = changes
        self._clock = clock
        self._tick = tick
        self._beat = beat
        self._lock = threading.Lock()
        self._durations = Durations()
        self._learned: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._shown: dict[str, Entry] = {}
        self._version = 0
        # What the viewers have been told, and up to which change. Others read the rows too.
        self._told: dict[str, Entry] = {}
        self._told_version = 0
        self._swept = float("-inf")
        self._number = 0
        self._frames: deque[tuple[int, bytes]] = deque()
        self._snapshot: tuple[int, list[bytes]] = (-1, [])
        self._viewers = 0
        self._over = False
        self._pump: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def entries(self) -> list[Entry]:
        """Return every row as it is now. Blocks; safe in threads."""
        with self._lock:
            self._render(whole=True)
            return list(self._shown.values())

    def entry(self, plan: str) -> Entry | None:
        """Return one row as it is now, None if there is no such plan. Blocks."""
        with self._lock:
            if plan not in self._shown:
                self._render(whole=True)
            elif (log := self.fleet.log_of(plan)) is not None:
                self._place(plan, log, self._clock())
            return self._shown.get(plan)

    def document(self) -> dict[str, Any]:
        """Return the whole fleet for JSON. Blocks."""
        entries = self.entries()
        return {
            "now": self.now,
            "totals": totals(entries),
            "machines": [each.document() for each in entries],
        }

    @property
    def now(self) -> float:
        """The time of the rows' times, in Unix seconds."""
        return round(self._clock(), 3)

    @property
    def viewers(self) -> int:
        """How many are looking."""
        return self._viewers

    async def frames(self, last: str = "") -> AsyncGenerator[bytes, None]:
        """Yield server-sent events for one viewer until `end`; `last` is the last id it has had."""
        async with self._looking():
            seen = self._number_of(last)
            while not self._over:
                number, pieces = await asyncio.to_thread(self.after, seen)
                for piece in pieces:
                    yield piece
                seen = number
                if not await self._changed(seen) and not self._over:
                    yield self._beat_event()

    def end(self) -> None:
        """Let every viewer go, before the server stops; called in the viewers' event loop."""
        self._over = True
        self._news.set()

    @contextlib.asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        self._viewers += 1
        try:
            if self._pump is None or self._pump.done():
                await asyncio.to_thread(self.advance)
                if self._pump is None or self._pump.done():
                    self._pump = asyncio.create_task(self._run(), name="fleet frames")
            yield
        finally:
            self._viewers -= 1
            if not self._viewers and self._pump is not None:
                self._pump.cancel()
                self._pump = None

    async def _run(self) -> None:
        while True:
            await self._changes.wait(self._told_version, timeout=SWEEP)
            began = time.monotonic()
            await asyncio.to_thread(self.advance)
            took = time.monotonic() - began
            if not self._over:
                news, self._news = self._news, asyncio.Event()
                news.set()
            # However many rows change: a fifth of a processor at most goes into showing them.
            await asyncio.sleep(max(self._tick, 4 * took))

    async def _changed(self, seen: int) -> bool:
        """Return True once there is a frame after `seen`, False after a while of quiet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._beat):
                while self._number == seen and not self._over:
                    await self._news.wait()
        return self._number != seen

    def _beat_event(self) -> bytes:
        return b'event: beat\ndata: {"now":%.3f}\n\n' % self._clock()

    def _number_of(self, last: str) -> int:
        """Return the number in an id of this server's life, -1 for any other."""
        epoch, _, number = last.partition("-")
        plausible = number.isascii() and number.isdigit() and len(number) < 16
        return int(number) if epoch == self._changes.epoch and plausible else -1

    def after(self, seen: int) -> tuple[int, list[bytes]]:
        """Return the latest number and what to send to a viewer who has had `seen`."""
        with self._lock:
            oldest = self._frames[0][0] if self._frames else self._number + 1
            if oldest - 1 <= seen <= self._number:
                return self._number, [frame for number, frame in self._frames if number > seen]
            if self._snapshot[0] != self._number:
                self._snapshot = (self._number, [self._event("fleet", self._all())])
            return self._snapshot

    def _all(self) -> dict[str, Any]:
        return {"machines": [each.document() for each in self._told.values()]}

    def _event(self, name: str, content: dict[str, Any]) -> bytes:
        told = {"now": self.now, **content}
        text = json.dumps(told, ensure_ascii=True, separators=(",", ":"))
        return (
            f"id: {self._changes.epoch}-{self._number}\nevent: {name}\ndata: {text}\n\n"
        ).encode()

    def advance(self) -> None:
        """Render what changed into the next frame, if anything did."""
        with self._lock:
            self._render(whole=self._clock() - self._swept >= SWEEP)
            before, self._told = self._told, dict(self._shown)
            self._told_version = self._version
            changed = [
                _difference(before.get(plan), now)
                for plan, now in self._told.items()
                if before.get(plan) is not now and before.get(plan) != now
            ]
            gone = [plan for plan in before if plan not in self._told]
            if not changed and not gone:
                return
            self._number += 1
            frame = self._event("change", {"machines": changed, "gone": gone})
            self._frames.append((self._number, frame))
            while (
                len(self._frames) > FRAMES_KEPT
                or sum(len(frame) for _, frame in self._frames) > BYTES_KEPT
            ):
                self._frames.popleft()

    def _render(self, *, whole: bool) -> None:
        self._version, plans = self._changes.since(self._version)
        now = self._clock()
        if plans is not None and len(plans) <= MANY and not whole:
            for plan in plans:
                self._place(plan, self.fleet.log_of(plan), now)
            return
        rows = list(self.fleet.rows())
        self._names = {row.plan: row.file.hostname for row in rows if row.file}
        here = {row.plan for row in rows}
        for plan in [plan for plan in self._shown if plan not in here]:
            del self._shown[plan]
            self._learned.pop(plan, None)
        for row in rows:
            self._place(row.plan, row.log, now)
        self._swept = now

    def _place(self, plan: str, log: Log | None, now: float) -> None:
        placed = entry(plan, self._names.get(plan, ""), log, self._durations, now)
        self._shown[plan] = placed
        if log is not None and placed.state == "installed":
            run = log.checklist.standing.run
            if self._learned.get(plan) != run:
                self._learned[plan] = run
                self._durations.learn(log.checklist.standing.seconds)


def _difference(before: Entry | None, now: Entry) -> dict[str, Any]:
    """Return the fields that changed, and always the id."""
    if before is None:
        return now.document()
    old = before.document()
    return {key: value for key, value in now.document().items() if key == "id" or old[key] != value}
