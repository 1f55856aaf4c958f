"""Events waiting for a slow sink: bounded, and what may be lost is lost in the right order."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from agent.report.event import Event

PROGRESS_KEPT = 1000


class EventBuffer:
    """A queue between the reporter and the thread of one sink.

    When more than `progress_kept` progress events wait, the oldest of them goes. Everything else
    is kept: a run has a few dozen steps, so their number needs no bound of its own.
    """

    def __init__(self, progress_kept: int = PROGRESS_KEPT) -> None:
        self._progress_kept = progress_kept
        self._waiting: OrderedDict[int, Event] = OrderedDict()
        self._progress: deque[int] = deque()
        self._count = 0
        self._taken = 0
        self._closed = False
        self._changed = threading.Condition()
        self.dropped = 0

    def put(self, event: Event) -> None:
        """Append an event; never blocks."""
        with self._changed:
            self._count += 1
            self._waiting[self._count] = event
            if event.is_progress:
                self._progress.append(self._count)
                if len(self._progress) > self._progress_kept:
                    del self._waiting[self._progress.popleft()]
                    self.dropped += 1
            self._changed.notify_all()

    def take(self, count: int, size: int) -> list[Event]:
        """Remove and return the oldest events: at most `count`, at most `size` bytes, at least one.

        Empty only if nothing waits. Call `settle` when they are dealt with.
        """
        batch: list[Event] = []
        with self._changed:
            while self._waiting and len(batch) < count:
                number, event = next(iter(self._waiting.items()))
                size -= len(event.line)
                if batch and size < 0:
                    break
                del self._waiting[number]
                if event.is_progress:
                    self._progress.popleft()
                batch.append(event)
            self._taken = len(batch)
        return batch

    def settle(self) -> None:
        """Say that what was taken is dealt with."""
        with self._changed:
            self._taken = 0
            self._changed.notify_all()

    def wait(self, timeout: float | None) -> bool:
        """Wait up to `timeout` seconds for an event or the end; return whether an event waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            return bool(self._waiting)

    def linger(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for more, but not once more than progress waits."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or len(self._waiting) > len(self._progress), timeout
            )

    def drained(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing waits or is taken; return whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._taken, timeout)

    def close(self) -> None:
        """Wake whoever waits; events that wait can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting) + self._taken
