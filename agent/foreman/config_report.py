"""A config report for Foreman: one at the end of a run, an entry for each step.

Only the six statuses and the seven levels that its importer knows may be in it: any other key of
the first crashes it, any other of the second is refused (report_importer.rb).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.report.event import RUN_STEP, Event, State
from agent.report.text import amount, duration, plain

MESSAGE_LIMIT = 2000
ENTRIES = 200


@dataclass(frozen=True)
class Entry:
    """One step that ended."""

    step: str
    failed: bool
    seconds: float
    words: str

    @classmethod
    def of(cls, event: Event) -> list[Entry]:
        """Return the entry of an event that ends a step, none of any other."""
        if event.step == RUN_STEP or event.state not in (State.FINISHED, State.FAILED):
            return []
        seconds = event.evidence.get("seconds")
        took = float(seconds) if isinstance(seconds, int | float) else 0.0
        failed = event.state is State.FAILED
        words = plain(" ".join(event.message.split()), limit=MESSAGE_LIMIT) if failed else "done"
        if not failed and event.done and event.unit:
            words = amount(event.done, event.unit)
        return [cls(event.step, failed, took, f"{words} ({duration(took)})")]


def config_report(host: str, last: Event, entries: Sequence[Entry]) -> bytes:
    """Return the report of a run about a host, as JSON."""
    kept = list(entries)[-ENTRIES:]
    failed = last.state is State.FAILED
    broken = max(1, sum(entry.failed for entry in kept)) if failed else 0
    logs = [_log("err" if entry.failed else "notice", entry.step, entry.words) for entry in kept]
    if failed:
        reason = plain(" ".join(last.message.split()), limit=MESSAGE_LIMIT) or "failed"
        logs.append(_log("err", RUN_STEP, reason))
    times = {entry.step: round(entry.seconds, 1) for entry in kept}
    total = last.evidence.get("seconds")
    if isinstance(total, int | float):
        times["total"] = round(float(total), 1)
    document = {
        "config_report": {
            "host": host,
            "reported_at": f"{datetime.fromtimestamp(last.time, UTC):%Y-%m-%d %H:%M:%S+00:00}",
            "status": {
                "applied": sum(not entry.failed for entry in kept),
                "failed": broken,
                "skipped": 0,
                "pending": 0,
                "restarted": 0,
                "failed_restarts": 0,
            },
            "metrics": {"time": times},
            "logs": logs,
        }
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _log(level: str, source: str, message: str) -> dict[str, Any]:
    return {
        "log": {
            "level": level,
            "sources": {"source": plain(source, limit=120)},
            "messages": {"message": message},
        }
    }
