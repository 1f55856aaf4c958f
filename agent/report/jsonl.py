"""The events as JSON lines in a file or on a file descriptor."""

from __future__ import annotations

import os
from pathlib import Path

from agent.report.event import Event


class JsonLines:
    """Appends each event as one line with one write, so that a reader never sees half of it.

    `target` is a path, opened for appending (mode 0600: evidence is for the operator), or a file
    descriptor, which stays the caller's.
    """

    def __init__(self, target: Path | int) -> None:
        self._owned = not isinstance(target, int)
        if isinstance(target, int):
            self._descriptor = target
        else:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(target, flags, 0o600)

    def __call__(self, event: Event) -> None:
        line = memoryview(event.line)
        while line:
            line = line[os.write(self._descriptor, line) :]

    def close(self, timeout: float) -> None:
        """Close the file if it was opened here; `timeout` is not needed."""
        del timeout
        if self._owned:
            os.close(self._descriptor)
