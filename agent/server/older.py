"""Events of a directory that was served before there was a database: `events/<plan>.jsonl`.

They are taken into the database once, when the server starts, and the file is renamed to
`<plan>.jsonl.imported`. Being cut off in between is harmless: each event is stored once.
"""

from __future__ import annotations

import logging
from pathlib import Path

from agent.report.event import LINE_LIMIT, PLAN_ID, Event, EventError
from agent.server.batches import Batch, Batches
from agent.server.refusal import RefusalError

log = logging.getLogger(__name__)

_TOGETHER = 1000


def take_in(directory: Path, batches: Batches) -> None:
    """Import every file of events in `directory`; what cannot be is left as it is and logged."""
    for path in sorted(directory.glob("*.jsonl")):
        if not PLAN_ID.fullmatch(path.stem):
            continue
        try:
            count = _import(path, batches)
            path.rename(path.with_name(f"{path.name}.imported"))
        except (OSError, RefusalError) as error:
            log.warning("%s: not imported: %s", path, error)
            continue
        log.info("%s: imported %d events", path, count)


def _import(path: Path, batches: Batches) -> int:
    count, waiting, heard = 0, list[Event](), path.stat().st_mtime
    with path.open("rb") as file:
        while line := file.readline(LINE_LIMIT):
            try:
                waiting.append(Event.from_json(line))
            except EventError:
                continue  # half a line, from a crash in the middle of a write
            if len(waiting) == _TOGETHER:
                count += _store(batches, path.stem, waiting, heard)
                waiting = []
    return count + _store(batches, path.stem, waiting, heard)


def _store(batches: Batches, plan: str, waiting: list[Event], heard: float) -> int:
    if not waiting:
        return 0
    # As known: what was taken once is kept, whether its plan still lies here or not.
    return len(batches.store(Batch(plan, True, waiting, heard)).fresh)
