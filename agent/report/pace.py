"""How often progress is told, and how fast a step advances."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from agent.report.event import COUNT_LIMIT, UNIT_LIMIT

MOST = COUNT_LIMIT - 1
WINDOW = 5.0
"""Seconds over which a rate is taken: steady enough to read, quick enough to show a stall."""


@dataclass(frozen=True)
class Figures:
    """How far something is: the fields of an event; `rate` in units per second."""

    done: int | None = None
    total: int | None = None
    unit: str = ""
    rate: float | None = None


class Pace:
    """The latest figures of one step and their rate. Times are monotonic seconds."""

    def __init__(self, began: float) -> None:
        self.began = began
        self._latest = Figures()
        self._samples: deque[tuple[float, int]] = deque([(began, 0)])

    def update(self, done: int, total: int | None, unit: str) -> None:
        """Take the newest figures; cheap, called as often as the step likes."""
        done = min(max(0, done), MOST)
        if self._latest.done is not None and done < self._latest.done:
            # Started over (a mirror was tried again): the old samples would give a negative rate.
            self._samples.clear()
        total = None if total is None else min(max(0, total), MOST)
        self._latest = Figures(done, total, unit[:UNIT_LIMIT])

    def figures(self, now: float) -> Figures:
        """Return the figures with the rate over the last seconds; once per event that goes out."""
        if self._latest.done is None:
            return self._latest
        self._samples.append((now, self._latest.done))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW:
            self._samples.popleft()
        (first, before), (last, done) = self._samples[0], self._samples[-1]
        rate = round((done - before) / (last - first), 3) if last > first else None
        return replace(self._latest, rate=rate)

    def outcome(self, now: float) -> Figures:
        """Return the last figures with the rate since the step began."""
        if self._latest.done is None or now <= self.began:
            return self._latest
        return replace(self._latest, rate=round(self._latest.done / (now - self.began), 3))
