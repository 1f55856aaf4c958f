"""One machine in full: its runs with their steps and evidence, the log's tail, the layout.

Read from the stored events when somebody asks, so that it costs nothing while nobody does. Pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agent.report.checklist import Checklist
from agent.report.event import RUN_STEP, Event, EventError, State
from agent.report.evidence import Json, fit
from agent.report.text import plain

RUNS_KEPT = 5
STEPS_KEPT = 200
LATEST_KEPT = 60
EVIDENCE_LIMIT = 16 * 1024
"""Bytes of one step's evidence; what is left out is named in it."""
LOG_LINES = 400
LAYOUT_LIMIT = 64 * 1024

_FOR_THE_LOG = frozenset({"log", "traceback", "advice", "report"})
_PROGRESS = b'"state":"progress"'


@dataclass
class _Run:
    id: str
    steps: Checklist = field(default_factory=Checklist)
    evidence: dict[str, dict[str, Json]] = field(default_factory=dict)
    began: float = 0.0
    last: Event | None = None
    log: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    report: dict[str, Json] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        self.steps.update(event)
        self.began = self.began or event.time
        evidence = event.evidence
        if event.state in (State.FINISHED, State.FAILED):
            self.log = _texts(evidence.get("traceback")) or _texts(evidence.get("log")) or self.log
            self.advice = _texts(evidence.get("advice")) or self.advice
        if event.step == RUN_STEP:
            report = evidence.get("report")
            self.report = report if isinstance(report, dict) else self.report
            self.last = event if event.is_last else self.last
        elif evidence and len(self.evidence) < STEPS_KEPT:
            kept = {key: value for key, value in evidence.items() if key not in _FOR_THE_LOG}
            kept.pop("seconds", None)
            self.evidence[event.step] = fit(kept, EVIDENCE_LIMIT)

    def document(self) -> dict[str, Any]:
        last = self.last
        report = {k: v for k, v in self.report.items() if k not in ("layout", "picture", "proofs")}
        return {
            "run": self.id,
            "began": self.began,
            "state": last.state.value if last else "",
            "message": last.message if last else "",
            "steps": [
                {
                    "name": line.name,
                    "title": line.title,
                    "state": line.state.value if line.state else "",
                    "began": line.began or None,
                    "seconds": line.seconds,
                    "done": line.done,
                    "total": line.total,
                    "unit": line.unit,
                    "rate": line.rate,
                    "message": line.message,
                    "evidence": self.evidence.get(line.name, {}),
                }
                for line in self.steps
            ],
            "advice": self.advice,
            "report": fit(report, EVIDENCE_LIMIT),
        }


def detail(pages: Iterable[bytes]) -> dict[str, Any]:
    """Return the detail of a plan from pages of its event lines, as JSON-able data.

    Texts are as the machine sent them: show them as text. Lines that are no events are passed over.
    """
    runs: OrderedDict[str, _Run] = OrderedDict()
    latest: deque[dict[str, Any]] = deque(maxlen=LATEST_KEPT)
    layout: dict[str, Json] = {}
    picture: list[str] = []
    for event in _events(pages):
        run = runs.get(event.run)
        if run is None:
            run = runs[event.run] = _Run(event.run)
            while len(runs) > RUNS_KEPT:
                runs.popitem(last=False)
        run.take(event)
        layout, picture = _layout(event, layout, picture)
        if event.state is not State.PROGRESS:
            latest.append(_told(event))
    shown = list(runs.values())
    return {
        "runs": [run.document() for run in reversed(shown)],
        "log": next((run.log for run in reversed(shown) if run.log), [])[-LOG_LINES:],
        "latest": list(latest),
        "layout": fit(layout, LAYOUT_LIMIT),
        "picture": picture,
    }


def _events(pages: Iterable[bytes]) -> Iterable[Event]:
    """Yield the events; of progress only the last of each step, as it says how far that is."""
    held: bytes | None = None
    for page in pages:
        for line in page.splitlines():
            if _PROGRESS in line:
                held = line
                continue
            if held is not None:
                yield from _parsed(held)
                held = None
            yield from _parsed(line)
    if held is not None:
        yield from _parsed(held)


def _parsed(line: bytes) -> Iterable[Event]:
    try:
        yield Event.from_json(line)
    except EventError:
        return


def _layout(
    event: Event, layout: dict[str, Json], picture: list[str]
) -> tuple[dict[str, Json], list[str]]:
    """Return the newest layout that was told: what the check decided, then what was installed."""
    report = event.evidence.get("report") if event.step == RUN_STEP else None
    source = report if isinstance(report, dict) else event.evidence
    placed = source.get("layout" if source is report else "placed")
    drawn = source.get("picture" if source is report else "layout")
    return (
        placed if isinstance(placed, dict) else layout,
        _texts(drawn) if isinstance(drawn, list) else picture,
    )


def _told(event: Event) -> dict[str, Any]:
    return {
        "time": event.time,
        "step": event.step,
        "state": event.state.value,
        "message": plain(event.message, limit=300),
    }


def _texts(value: Json) -> list[str]:
    return [str(each)[:1000] for each in value[-LOG_LINES:]] if isinstance(value, list) else []
