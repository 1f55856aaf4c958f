"""The last lines of the log, kept in memory so that a failure event can carry them."""

from __future__ import annotations

import logging
from collections import deque

from agent.report.text import plain

LINES_KEPT = 400
LINE_KEPT = 500
"""Characters kept of one line."""


class LogTail(logging.Handler):
    """A bounded ring of formatted log lines.

    Put it on the root logger; `lines()` gives the newest that fit into a number of bytes. A
    traceback is kept line by line.
    """

    def __init__(self, lines: int = LINES_KEPT, level: int = logging.DEBUG) -> None:
        super().__init__(level)
        self._lines: deque[str] = deque(maxlen=lines)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record; one that cannot be formatted is kept as such and raises nothing."""
        try:
            text = self.format(record)
        except Exception as error:
            text = f"{record.levelname} {record.name}: a log line failed: {type(error).__name__}"
        self._lines.extend(plain(line, limit=LINE_KEPT) for line in text.splitlines())

    def lines(self, size: int = 60 * 1024) -> list[str]:
        """Return the newest lines, oldest first, together at most `size` bytes as UTF-8."""
        kept: list[str] = []
        for line in reversed(self._lines.copy()):
            size -= len(line.encode()) + 1
            if size < 0:
                break
            kept.append(line)
        return kept[::-1]
