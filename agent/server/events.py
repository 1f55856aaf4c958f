"""Events and escrow envelopes coming in: who may write, what is kept, what is answered."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent.report.event import PLAN_ID, Event, EventError, envelope_of
from agent.server.changes import Changes
from agent.server.eventlog import EventLog, sync_directory
from agent.server.plans import PlanFile, PlanStore
from agent.server.refusal import RefusalError

log = logging.getLogger(__name__)

BODY_LIMIT = 1024 * 1024
"""Bytes of one batch."""
STRANGERS_LIMIT = 1000
"""Plans that are not in this directory and may nevertheless send events, to keep a bound."""
ENVELOPES_LIMIT = 100
"""Escrow envelopes kept for one plan."""

Answer = dict[str, int | str | bool]


@dataclass(frozen=True)
class Row:
    """One line of the fleet page: a plan, if it is here, and its log, if events came."""

    plan: str
    file: PlanFile | None
    log: EventLog | None


class EventStore:
    """Takes batches of events into `events/` and envelopes into `escrow/`. Safe in threads."""

    def __init__(
        self,
        events: Path,
        escrow: Path,
        plans: PlanStore,
        *,
        strangers: int = STRANGERS_LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._events = events
        self._escrow = escrow
        self._plans = plans
        self._strangers = strangers
        self._clock = clock
        self.changes = Changes()
        """Bumped for every plan that has news; the fleet page follows it."""
        self._lock = threading.Lock()
        self._logs: dict[str, EventLog] = {}

    def take(self, body: bytes, *, token: str, plan: str) -> Answer:
        """Store a batch and return the answer to it.

        `token` is the bearer token that came along, `plan` whom an empty batch asks for. A batch
        is taken as a whole or refused as a whole, by `RefusalError` with 400, 401 or 507.
        """
        events = _parse(body)
        if not events:
            if plan:
                self._authorize(plan, token)
            return {"accepted": 0, "escrow": True}
        plan = events[0].plan
        if not plan or any(event.plan != plan for event in events):
            raise RefusalError(400, "plan: must be given, and one for all events of a batch")
        file = self._authorize(plan, token)
        answer: Answer = {"accepted": max(event.seq for event in events)}
        try:
            if any("envelope" in event.evidence for event in events):
                if len(events) > 1:
                    raise RefusalError(400, "evidence.envelope: must come in a batch of its own")
                answer["acknowledged"] = self._keep(events[0])
                events = [_without_envelope(events[0])]
            target = self._created(file.id if file else plan, known=file is not None)
            target.append(events, self._clock())
            self.changes.bump(file.id if file else plan)
        except OSError as error:
            # 5xx: the agent keeps its events and asks again.
            raise RefusalError(507, f"cannot be stored: {error.strerror or error}") from error
        return answer

    def log_of(self, plan: str) -> EventLog | None:
        """Return a plan's log, or None if no event ever came."""
        if not PLAN_ID.fullmatch(plan):
            return None
        with self._lock:
            found = self._logs.get(plan)
            if found is None and self._path(plan).exists():
                found = self._logs[plan] = EventLog(self._path(plan))
        return found

    def lines_of(self, plan: str) -> Iterator[bytes]:
        """Yield a plan's events as stored, a line each, the oldest first; none for a stranger."""
        found = self.log_of(plan)
        with contextlib.suppress(FileNotFoundError):
            if found:
                with found.path.open("rb") as file:
                    yield from file

    def rows(self) -> Iterator[Row]:
        """Yield a row for every plan that is here or has sent events."""
        plans = {plan.id: plan for plan in self._plans.all()}
        for plan, file in plans.items():
            yield Row(plan, file, self.log_of(plan))
        for path in sorted(self._events.glob("*.jsonl")):
            if path.stem not in plans and (found := self.log_of(path.stem)):
                yield Row(path.stem, None, found)

    def _authorize(self, plan: str, token: str) -> PlanFile | None:
        """Return the plan if it is one of ours; raise 401 unless the token fits."""
        file = self._plans.find(plan) if PLAN_ID.fullmatch(plan) else None
        if file and not file.admits(token):
            what = "the token is not this plan's" if token else "needs its bearer token"
            raise RefusalError(401, f"plan {plan}: {what}")
        return file

    def _created(self, plan: str, *, known: bool) -> EventLog:
        """Return the plan's log, an empty one if there is none yet."""
        found = self.log_of(plan)
        with self._lock:
            found = found or self._logs.get(plan)
            if found is None:
                if not known and len(self._logs) >= self._strangers:
                    raise RefusalError(507, "too many plans that this server does not know")
                found = self._logs[plan] = EventLog(self._path(plan))
        return found

    def _path(self, plan: str) -> Path:
        return self._events / f"{plan}.jsonl"

    def _keep(self, event: Event) -> str:
        """Write the envelope durably and return its sha256; doing it again changes nothing."""
        try:
            found = envelope_of(event)
        except EventError as error:
            raise RefusalError(400, str(error)) from None
        if found is None:
            raise RefusalError(400, "evidence.envelope: belongs to the step escrow")
        envelope, digest = found
        path = self._escrow / f"{event.plan}-{digest}.p7m"
        with self._lock:
            if path.exists():
                return digest
            if sum(1 for _ in self._escrow.glob(f"{event.plan}-{'?' * 64}.p7m")) >= ENVELOPES_LIMIT:
                raise RefusalError(507, f"plan {event.plan}: has {ENVELOPES_LIMIT} envelopes")
            part = path.with_name(f".{path.name}.part")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(envelope)
                file.flush()
                os.fsync(descriptor)
            part.rename(path)
            sync_directory(self._escrow)
        log.info("escrow: kept %s", path.name)
        return digest


def _parse(body: bytes) -> list[Event]:
    events = []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            events.append(Event.from_json(line))
        except EventError as error:
            raise RefusalError(400, f"line {number}: {error}") from None
    return events


def _without_envelope(event: Event) -> Event:
    """Return the event for the log, which more people read than the escrow directory."""
    kept = {key: value for key, value in event.evidence.items() if key != "envelope"}
    return replace(event, evidence=kept)
