"""What is known about one plan after the events so far: what the fleet page draws."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.report.checklist import Checklist
from agent.report.event import Event, State

WEIGHT_LIMIT = 128 * 1024 * 1024
"""Bytes of events that all check lists together are kept of; the others are read again."""
_LEAST = 2048
"""A check list weighs something even before its first step."""


@dataclass(frozen=True)
class EventLog:
    """A picture of a plan's events at one moment; a later event makes a new one."""

    plan: str
    log: int = 0
    """Which row of the database it is of: another one when the plan's events were removed."""
    checklist: Checklist = field(default_factory=Checklist)
    heard: float = 0.0
    """When the last event was stored, in Unix seconds."""
    installed: bool = False
    """Whether the last run that ended ended well."""
    count: int = 0
    """How many events are stored; this is of the first so many."""
    weight: int = _LEAST
    """Bytes of the events that the check list still holds parts of."""

    def after(self, events: Iterable[Event], *, heard: float, count: int) -> EventLog:
        """Return the picture after more events, the last of which is number `count`."""
        checklist, installed, weight = self.checklist.copy(), self.installed, self.weight
        for event in events:
            if event.run != checklist.run:
                weight = _LEAST
            checklist.update(event)
            weight += 0 if event.is_progress else len(event.line)
            if event.is_last:
                installed = event.state is State.FINISHED
        return EventLog(self.plan, self.log, checklist, heard, installed, count, weight)


class Pictures:
    """The latest pictures of plans, the least wanted forgotten first. Safe in threads."""

    def __init__(self, limit: int = WEIGHT_LIMIT) -> None:
        self._limit = limit
        self._weight = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, EventLog] = OrderedDict()

    def get(self, plan: str) -> EventLog | None:
        with self._lock:
            if plan in self._kept:
                self._kept.move_to_end(plan)
            return self._kept.get(plan)

    def put(self, picture: EventLog) -> None:
        """Keep a picture, unless there is a newer one of its plan."""
        with self._lock:
            old = self._kept.get(picture.plan)
            if old is not None and (old.log, old.count) > (picture.log, picture.count):
                return
            self._kept[picture.plan] = picture
            self._kept.move_to_end(picture.plan)
            self._weight += picture.weight - (old.weight if old else 0)
            while self._weight > self._limit and len(self._kept) > 1:
                self._weight -= self._kept.popitem(last=False)[1].weight

    def drop(self, plan: str) -> None:
        with self._lock:
            old = self._kept.pop(plan, None)
            self._weight -= old.weight if old else 0
