"""What the fleet page says of one machine, read off its check list. Pure; times in Unix seconds.

A machine's own clock may be wrong. How long something took is taken from it; when something was is
told by this server's clock, from when the machine was last heard.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, Protocol

from agent.report.checklist import Checklist, Line
from agent.report.event import State
from agent.report.standing import Standing
from agent.report.text import plain

SILENT = 60.0
"""Seconds without a word after which a running machine is shown as silent."""
DAY = 86_400.0
STATES = ("failed", "silent", "running", "waiting", "installed")
"""The most urgent first."""
TEXT_LIMIT = 400
SAMPLES_KEPT = 31
NAMES_KEPT = 200


class Log(Protocol):
    """What is known of one plan's events."""

    @property
    def checklist(self) -> Checklist: ...
    @property
    def heard(self) -> float: ...
    @property
    def installed(self) -> bool: ...


class Durations:
    """How long each step took on the machines that are done: what the others may expect."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[float]] = {}

    def learn(self, seconds: Mapping[str, float]) -> None:
        """Take the steps of one finished installation; the newest of each name are kept."""
        for name, took in dict(seconds).items():
            if name not in self._samples and len(self._samples) >= NAMES_KEPT:
                continue
            self._samples.setdefault(name, deque(maxlen=SAMPLES_KEPT)).append(took)

    def typical(self, name: str) -> float | None:
        """Return the median in seconds; None for a step that nobody has finished."""
        samples = self._samples.get(name)
        return median(samples) if samples else None

    def beyond(self, names: Iterable[str]) -> float:
        """Return the seconds of all known steps that are not among `names`."""
        known = set(names)
        return sum(self.typical(name) or 0 for name in self._samples if name not in known)


@dataclass(frozen=True)
class Left:
    """What is left to do: seconds, and of what."""

    seconds: float
    of: Literal["run", "step"]


@dataclass(frozen=True)
class Entry:
    """One row. Texts are safe to show; None is what nobody knows."""

    id: str
    name: str
    machine: str
    state: str
    step: str = ""
    message: str = ""
    finished: int = 0
    steps: int = 0
    share: float | None = None
    """Of the whole run, 0 to 1."""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    rate: float | None = None
    began: float | None = None
    ended: float | None = None
    took: float | None = None
    eta: float | None = None
    """When it will be through; `eta_of` says whether with the run or only with this step."""
    eta_of: str = ""
    heard: float | None = None
    mirror: str = ""
    unlock: str = ""
    policy: str = ""
    seal: str = ""

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def entry(plan: str, hostname: str, log: Log | None, durations: Durations, now: float) -> Entry:
    """Return the row of a plan; `log` is None while no event came."""
    if log is None:
        return Entry(_text(plan), _text(hostname or plan), "", "waiting")
    steps, standing, heard = log.checklist, log.checklist.standing, log.heard
    state = _state(log, now)
    current = steps.current
    left = _left(steps, standing, durations) if state == "running" else None
    ended = _ended(standing, heard)
    line = current or (steps.failed if state == "failed" else None)
    return Entry(
        id=_text(plan),
        name=_text(hostname or steps.machine or plan),
        machine=_text(steps.machine),
        state=state,
        step=_step(steps, state),
        message=_message(steps, state),
        finished=steps.finished,
        steps=max(steps.expected, len(tuple(steps))) if steps.expected else 0,
        share=1.0 if state == "installed" else _share(steps, left, standing),
        done=line.done if line else None,
        total=line.total if line else None,
        unit=_text(line.unit) if line else "",
        rate=current.rate if current and current.unit == "bytes" else None,
        began=_began(standing, heard, ended),
        ended=ended,
        took=standing.took,
        eta=round(heard + left.seconds) if left and left.seconds < 30 * DAY else None,
        eta_of=left.of if left and left.seconds < 30 * DAY else "",
        heard=heard,
        mirror=standing.mirror,
        unlock=standing.unlock,
        policy=_text(standing.policy),
        seal=standing.seal,
    )


def totals(entries: Iterable[Entry]) -> dict[str, int]:
    """Return how many machines are in each state, and all of them as `machines`."""
    counted = Counter(each.state for each in entries)
    return {"machines": counted.total(), **{state: counted[state] for state in STATES}}


def _state(log: Log, now: float) -> str:
    steps = log.checklist
    if steps.last:
        return "installed" if steps.last.state is State.FINISHED else "failed"
    if log.installed and not steps.current:
        return "installed"  # the first boot has reported, in a run of its own
    return "silent" if now - log.heard > SILENT else "running"


def _step(steps: Checklist, state: str) -> str:
    line = steps.failed if state == "failed" else steps.current
    return _text(line.title) if line else ""


def _message(steps: Checklist, state: str) -> str:
    if state == "failed" and steps.last:
        return _one_line(steps.last.message)
    line = steps.failed
    return _one_line(line.message) if line and not steps.current and state != "installed" else ""


def _left(steps: Checklist, standing: Standing, durations: Durations) -> Left | None:
    """Return what is left: of the run where others have shown how long its other steps take."""
    lines = tuple(steps)
    now = _of_step(steps.current, standing, durations)
    to_come = [durations.typical(line.name) for line in lines if line.state is None]
    if now is None or None in to_come:
        return None if now is None or steps.current is None else Left(now, "step")
    seconds = now + sum(each for each in to_come if each is not None)
    if not steps.expected:
        # Looking and checking: what will follow is not announced yet, but others have done it.
        beyond = durations.beyond(line.name for line in lines)
        if beyond:
            return Left(seconds + beyond, "run")
        return Left(now, "step") if steps.current else None
    return Left(seconds, "run")


def _of_step(line: Line | None, standing: Standing, durations: Durations) -> float | None:
    if line is None:
        return 0.0
    if line.left is not None:
        return line.left
    typical = durations.typical(line.name)
    return None if typical is None else max(0.0, typical - (standing.latest - line.began))


def _share(steps: Checklist, left: Left | None, standing: Standing) -> float | None:
    """Return the share of time where it is known, else the share of steps."""
    if left is not None and left.of == "run":
        gone = max(0.0, standing.latest - standing.began)
        return round(gone / (gone + left.seconds), 3) if gone + left.seconds > 0 else 0.0
    if not steps.expected:
        return None
    part = steps.current.share or 0.0 if steps.current else 0.0
    return round(min(1.0, (steps.finished + part) / max(steps.expected, len(tuple(steps)))), 3)


def _ended(standing: Standing, heard: float) -> float | None:
    """Return when the run ended, as this server would have it."""
    ended = standing.ended
    if ended is None:
        return None
    return ended if heard - DAY <= ended <= heard else heard


def _began(standing: Standing, heard: float, ended: float | None) -> float | None:
    if not standing.run and not standing.latest:
        return None
    long = standing.took if ended is not None else None
    if long is None:
        long = max(0.0, standing.latest - standing.began)
    return (heard if ended is None else ended) - long


def _one_line(text: str) -> str:
    """Return a message of several problems in one line, as a row has no more."""
    return _text("; ".join(part for part in text.splitlines() if part.strip()))


def _text(text: str) -> str:
    return plain(text, limit=TEXT_LIMIT)
