"""The end of a run as text: what is on the disks now, or what failed and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from agent.report.checklist import Checklist
from agent.report.event import Event, State
from agent.report.evidence import Json
from agent.report.text import amount, duration, plain, plain_lines

REPORT_LINES = 60
LOG_LINES = 25
DEFAULT_ADVICE = (
    "Correct the cause above, then boot this machine again: the same plan may be run again.",
    "The whole log of this run is in the journal of this system: journalctl -b",
)


FOR_PROGRAMS = frozenset({"layout", "proofs"})
"""Parts of the report that are long and regular: in the event, not on a console."""


class Tone(StrEnum):
    """How a line is meant; a capable console gives it a colour."""

    TITLE_GOOD = "title-good"
    TITLE_BAD = "title-bad"
    HEADING = "heading"
    GOOD = "good"
    BAD = "bad"
    PLAIN = "plain"
    FAINT = "faint"


def summary(event: Event, steps: Checklist) -> Iterator[tuple[Tone, str]]:
    """Yield the lines of the last event of a run, safe to show, not cut to a width."""
    seconds = event.evidence.get("seconds")
    took = f" after {duration(seconds)}" if isinstance(seconds, int | float) else ""
    machine = plain(event.machine, limit=80) or "this machine"
    if event.state is State.FAILED:
        yield Tone.TITLE_BAD, f"NOT INSTALLED: {machine}{took}"
        yield from _failure(event, steps)
    else:
        report = event.evidence.get("report")
        state = report.get("state") if isinstance(report, dict) else None
        word = plain(state, limit=40).upper() if isinstance(state, str) else "INSTALLED"
        yield Tone.TITLE_GOOD, f"{word}: {machine}{took}"
        yield from _steps(steps)
        yield from _report(report)
    yield Tone.FAINT, f"plan {plain(event.plan, limit=130) or '(none)'}, run {event.run}"


def _failure(event: Event, steps: Checklist) -> Iterator[tuple[Tone, str]]:
    failed = steps.failed
    if failed:
        after = f" (after {duration(failed.seconds)})" if failed.seconds is not None else ""
        yield Tone.HEADING, "What failed"
        yield Tone.PLAIN, f"  {plain(failed.title)}{after}"
    yield Tone.HEADING, "Why"
    for line in plain_lines(event.message):
        yield Tone.BAD, f"  {line}"
    tail = event.evidence.get("log")
    if isinstance(tail, list) and tail:
        yield Tone.HEADING, "Last lines of the log"
        for entry in tail[-LOG_LINES:]:
            yield Tone.FAINT, f"  {plain(str(entry))}"
    advice = event.evidence.get("advice")
    yield Tone.HEADING, "What to do next"
    for entry in advice if isinstance(advice, list) and advice else DEFAULT_ADVICE:
        yield Tone.PLAIN, f"  - {plain(str(entry))}"


def _steps(steps: Checklist) -> Iterator[tuple[Tone, str]]:
    ended = [line for line in steps if line.seconds is not None]
    if ended:
        yield Tone.HEADING, "Steps"
    for line in ended:
        yield Tone.PLAIN, f"  {duration(line.seconds or 0):>12}  {plain(line.title, limit=200)}"


def _report(report: Json) -> Iterator[tuple[Tone, str]]:
    """Show the picture as it is drawn, then what is short; the rest is in the event."""
    shown = dict(report) if isinstance(report, dict) else {}
    picture = shown.pop("picture", None)
    if isinstance(picture, list) and picture:
        yield Tone.HEADING, "Layout"
        for line in picture[:REPORT_LINES]:
            yield Tone.PLAIN, f"  {plain(str(line), limit=200)}"
    rows = list(_flat({key: value for key, value in shown.items() if key not in FOR_PROGRAMS}))
    if rows:
        yield Tone.HEADING, "Report"
    width = min(36, max((len(key) for key, _ in rows), default=0))
    for key, value in rows[:REPORT_LINES]:
        yield Tone.PLAIN, f"  {plain(key, limit=80):<{width}}  {plain(value, limit=300)}"
    if len(rows) > REPORT_LINES:
        yield Tone.FAINT, f"  ({len(rows) - REPORT_LINES} more lines in the report event)"


def _flat(value: Json, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield `disks[0].serial`, `CZ123` for every leaf; short lists of scalars on one line."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for at, item in enumerate(value):
            yield from _flat(item, f"{path}[{at}]")
    elif isinstance(value, list):
        yield path, ", ".join(_leaf(item) for item in value)
    elif path:
        yield path, _size(value) if path.endswith("size") else _leaf(value)


def _size(value: Json) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    return f"{_leaf(value)} ({amount(float(str(value)), 'bytes')})" if number else _leaf(value)


def _leaf(value: Json) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
