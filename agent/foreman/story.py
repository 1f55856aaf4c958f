"""What Foreman is shown of a run that failed: the reason, the steps, the end of the log.

It keeps the first 65,535 bytes and shows them as they are, so what matters comes first and the log
is cut at its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.report.checklist import Checklist
from agent.report.event import Event, State
from agent.report.text import cut, duration, plain, plain_lines

LIMIT = 60 * 1024
"""Bytes of the whole; Foreman keeps a little more."""
HEAD_LIMIT = 16 * 1024
REASON_LIMIT = 300


def story(last: Event, steps: Checklist) -> bytes:
    """Return what to tell about the last event of a run that failed; at most `LIMIT` bytes."""
    head = _head(last, steps).encode()[:HEAD_LIMIT].decode("utf-8", "ignore")
    lines = last.evidence.get("log")
    log = [plain(str(line)) for line in lines] if isinstance(lines, list) else []
    room = LIMIT - len(head.encode()) - len(_TITLE)
    return (head + _TITLE + "".join(_newest(log, room))).encode()


def reason(last: Event) -> str:
    """Return the first line: one line that says why."""
    lines = [line.strip() for line in last.message.splitlines() if line.strip()]
    first = plain(lines[0], limit=REASON_LIMIT) if lines else "failed"
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"bedplate: {first}{more}"


_TITLE = "\nThe end of the log:\n"


def _head(last: Event, steps: Checklist) -> str:
    parts = [reason(last), ""]
    if len(last.message.splitlines()) > 1:
        parts += [*(f"  {line}" for line in plain_lines(last.message)), ""]
    advice = last.evidence.get("advice")
    parts += [f"  {plain(str(line))}" for line in advice] if isinstance(advice, list) else []
    parts += ["", "Steps:"]
    for line in steps:
        took = f", {duration(line.seconds)}" if line.seconds is not None else ""
        mark = _WORDS[line.state] if line.state else "not begun"
        parts.append(f"  {cut(plain(line.name), 60)}: {mark}{took}")
    return "\n".join(parts) + "\n"


_WORDS = {
    State.STARTED: "running",
    State.PROGRESS: "running",
    State.FINISHED: "done",
    State.FAILED: "FAILED",
}


def _newest(lines: Sequence[str], room: int) -> list[str]:
    kept: list[str] = []
    for line in reversed(lines):
        room -= len(line.encode()) + 1
        if room < 0:
            break
        kept.append(f"{line}\n")
    return kept[::-1]
