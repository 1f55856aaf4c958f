"""The steps of a run as a check list: what the consoles and the fleet page draw."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace

from agent.report.event import ESCROW_STEP, RUN_STEP, Event, State
from agent.report.standing import Standing, number

LINES_KEPT = 200


@dataclass(frozen=True)
class Line:
    """One step. `state` is None until it starts; `began` and `seconds` are in seconds."""

    name: str
    title: str
    state: State | None = None
    began: float = 0.0
    seconds: float | None = None
    done: int | None = None
    total: int | None = None
    unit: str = ""
    rate: float | None = None
    message: str = ""

    @property
    def share(self) -> float | None:
        """How much is done, 0 to 1; None where nobody knows."""
        if self.done is None or not self.total:
            return None
        return min(1.0, self.done / self.total)

    @property
    def left(self) -> float | None:
        """Seconds until it is done at the present rate; None where nobody knows."""
        if self.done is None or not self.total or not self.rate:
            return None
        return max(0.0, (self.total - self.done) / self.rate)


class Checklist:
    """What is known about a run after the events so far. Events of another run start it anew."""

    def __init__(self) -> None:
        self.run = ""
        self.plan = ""
        self.machine = ""
        self.expected = 0
        self.current: Line | None = None
        self.last: Event | None = None
        self.standing = Standing()
        self._lines: dict[str, Line] = {}

    def copy(self) -> Checklist:
        """Return one that goes its own way from here; lines are frozen and shared."""
        other = Checklist()
        vars(other).update(vars(self))
        other._lines = dict(self._lines)
        other.standing = copy(self.standing)
        return other

    def update(self, event: Event) -> Line | None:
        """Take an event; return the line it changed, None if it is about the run as a whole."""
        self.standing.take(event)
        if event.run != self.run:
            self._lines.clear()
            self.current, self.last, self.expected = None, None, 0
        self.run, self.plan, self.machine = event.run, event.plan, event.machine
        if event.step == RUN_STEP:
            self._about_the_run(event)
            return None
        if event.step == ESCROW_STEP and "sha256" in event.evidence:
            return None  # an envelope is no step; a server's log has its digest only
        if event.step not in self._lines and len(self._lines) >= LINES_KEPT:
            return None
        line = self._changed(event)
        self._lines[event.step] = line
        if event.state in (State.STARTED, State.PROGRESS):
            self.current = line
        elif self.current and self.current.name == line.name:
            self.current = None
        return line

    def _about_the_run(self, event: Event) -> None:
        if event.is_last:
            self.last, self.current = event, None
            return
        steps = event.evidence.get("steps")
        for step in steps[:LINES_KEPT] if isinstance(steps, list) else []:
            if isinstance(step, dict):
                name, title = str(step.get("name", "")), str(step.get("title", ""))
                self._lines.setdefault(name, Line(name, title or name))
        self.expected = len(self._lines)

    def _changed(self, event: Event) -> Line:
        known = self._lines.get(event.step, Line(event.step, event.step))
        if event.state is State.STARTED:
            return Line(event.step, event.message or known.title, event.state, began=event.time)
        line = replace(known, state=event.state, message=event.message)
        if event.state is State.PROGRESS:
            line = replace(line, message=known.message, began=known.began or event.time)
        else:
            line = replace(line, seconds=number(event.evidence.get("seconds")))
        if event.done is not None:
            figures = {"done": event.done, "total": event.total, "unit": event.unit}
            line = replace(line, **figures, rate=event.rate)  # type: ignore[arg-type]  # names and types are Line's own
        return line

    def __iter__(self) -> Iterator[Line]:
        # A copy: the server reads a check list while another thread adds to it.
        return iter(tuple(self._lines.values()))

    @property
    def finished(self) -> int:
        """How many steps are finished."""
        return sum(line.state is State.FINISHED for line in self)

    @property
    def failed(self) -> Line | None:
        """The step that failed last, if one did."""
        return next((line for line in reversed(list(self)) if line.state is State.FAILED), None)
