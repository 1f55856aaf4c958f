"""The journal: lines with a priority prefix on stderr, which journald understands (sd-daemon(3)).

`JournalSink` writes the events, `PriorityFormatter` gives the same prefix to `logging` records.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TextIO

from agent.report.event import Event, State
from agent.report.text import amount, cut, plain, plain_lines

_PRIORITY = {State.STARTED: 5, State.PROGRESS: 6, State.FINISHED: 5, State.FAILED: 3}
_PROGRESS_EVERY = 30.0
"""Seconds: the journal is for reading afterwards."""
_LINE_LIMIT = 2000


def under_journal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Return whether the descriptor is the journal's socket (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalSink:
    """Writes one `key=value` line an event, the install report and the log tail left out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if event.is_progress:
            if event.time - self._told.get(event.step, 0) < _PROGRESS_EVERY:
                return
            self._told[event.step] = event.time
        priority = _PRIORITY[event.state]
        lines = plain_lines(_sentence(event), limit=_LINE_LIMIT)
        self._stream.write("".join(f"<{priority}>{line}\n" for line in lines))
        self._stream.flush()


class PriorityFormatter(logging.Formatter):
    """Formats a record for stderr under systemd: every line starts with its syslog priority."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines (a traceback has many), each with its prefix."""
        priority = 7 if record.levelno < logging.INFO else _syslog(record.levelno)
        lines = plain_lines(super().format(record), limit=_LINE_LIMIT, most=200)
        return "\n".join(f"<{priority}>{line}" for line in lines)


def _syslog(level: int) -> int:
    return 3 if level >= logging.ERROR else 4 if level >= logging.WARNING else 6


def _sentence(event: Event) -> str:
    words = [f"step={event.step}", f"state={event.state}", f"seq={event.seq}"]
    if event.plan:
        words.append(f"plan={event.plan}")
    if event.done is not None:
        words.append(f"done={event.done}")
    if event.total is not None:
        words.append(f"total={event.total}")
    if event.rate is not None:
        words.append(f"rate={amount(event.rate, event.unit)}/s".replace(" ", ""))
    for key in ("seconds", "sha256", "error"):
        if key in event.evidence:
            words.append(f"{key}={plain(str(event.evidence[key]), limit=100)}")
    return (
        f"{' '.join(words)}: {cut(event.message, _LINE_LIMIT)}"
        if event.message
        else " ".join(words)
    )
