"""The events of one plan: an append-only file, and what can be read off it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from agent.report.checklist import Checklist
from agent.report.event import LINE_LIMIT, Event, EventError
from agent.server.refusal import RefusalError
from agent.server.seen import Seen

SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes of one plan's file: a hundred installations."""
RUNS_LIMIT = 1000


class EventLog:
    """`events/<plan>.jsonl`. Safe in threads; the file is read once, at the first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checklist = Checklist()
        self.heard = 0.0
        """When the last event was written, in Unix seconds."""
        self.installed = False
        """Whether the last run that ended ended well."""
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], Seen] = {}
        self._size = 0
        self._torn = False
        if path.exists():
            self._load()

    def append(self, events: Sequence[Event], now: float) -> None:
        """Store those events that are new, in their order; they are on disk when this returns.

        Progress alone is not forced to the disk: a power cut may lose it. Raises `RefusalError`
        507 when the plan's log is full; nothing is stored then.
        """
        with self._lock:
            once: dict[tuple[str, str, int], Event] = {}
            for event in events:
                once.setdefault((event.machine, event.run, event.seq), event)
            fresh = [event for event in once.values() if not self._knows(event)]
            lines = b"".join(event.line for event in fresh)
            if self._size + len(lines) > SIZE_LIMIT or self._too_scattered(fresh):
                raise RefusalError(
                    507, f"events of this plan: no room, move {self.path.name} away and restart"
                )
            if fresh:
                self._write(lines, force=not all(event.is_progress for event in fresh))
            for event in fresh:
                self._take(event)
            self.heard = now

    def _knows(self, event: Event) -> bool:
        seen = self._seen.get((event.machine, event.run))
        return seen is not None and event.seq in seen

    def _too_scattered(self, fresh: Sequence[Event]) -> bool:
        senders = {(event.machine, event.run) for event in fresh}
        return len(senders | self._seen.keys()) > RUNS_LIMIT or any(
            sender in self._seen and self._seen[sender].full for sender in senders
        )

    def _write(self, lines: bytes, *, force: bool) -> None:
        # Opened each time: ten thousand plans need no ten thousand descriptors, and an operator
        # may move the file away.
        new = not self.path.exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o640)
        try:
            if self._torn:
                lines = b"\n" + lines
                self._torn = False
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            if force:
                os.fdatasync(descriptor)
        except OSError:
            self._torn = True  # perhaps: a full disk takes half a line
            raise
        finally:
            os.close(descriptor)
        self._size += len(lines)
        if new:
            sync_directory(self.path.parent)

    def _take(self, event: Event) -> None:
        self._seen.setdefault((event.machine, event.run), Seen()).add(event.seq)
        self.checklist.update(event)
        if event.is_last:
            self.installed = event.state == "finished"

    def _load(self) -> None:
        found = self.path.stat()
        self._size, self.heard = found.st_size, found.st_mtime
        line = b"\n"
        with self.path.open("rb") as file:
            while line := file.readline(LINE_LIMIT):
                self._torn = not line.endswith(b"\n")
                try:
                    self._take(Event.from_json(line))
                except EventError:
                    continue  # half a line, from a crash in the middle of a write


def sync_directory(directory: Path) -> None:
    """Force the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
