"""Events and escrow envelopes coming in: who may write, what is kept, what is answered."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from agent.report.event import PLAN_ID, Event, EventError, envelope_of
from agent.report.text import plain
from agent.secret import Secret
from agent.server import older
from agent.server.batches import STRANGERS_LIMIT, Batch, Batches, Stored
from agent.server.changes import Changes
from agent.server.database import FILE, Database, logs, reason
from agent.server.database import events as event_table
from agent.server.escrow import Escrow, EscrowFiles
from agent.server.eventlog import EventLog, Pictures
from agent.server.limits import Limits
from agent.server.plans import PlanFile, PlanStore
from agent.server.reading import PAGE, pages
from agent.server.refusal import RefusalError
from agent.server.tokens import Tokens

log = logging.getLogger(__name__)

BODY_LIMIT = 1024 * 1024
"""Bytes of one batch."""
PARSED_AT_ONCE = 2
"""Batches: more threads would only take the interpreter from the one that talks to the network."""
PROGRESS_READ = 50
"""Progress events read for a picture: the last ones say how far it is."""

Answer = dict[str, int | str | bool]
Observer = Callable[[Stored], None]
"""Told of every batch once it is committed, of its fresh events only; must be quick."""


@dataclass(frozen=True)
class Row:
    """One line of the fleet page: a plan, if it is here, and its log, if events came."""

    plan: str
    file: PlanFile | None
    log: EventLog | None


class EventStore:
    """Takes batches of events into the database and envelopes into escrow. Safe in threads.

    `events` is the directory of older servers' files, which are imported. Without `database` it
    is SQLite beside that directory.
    """

    def __init__(
        self,
        events: Path,
        escrow: Path | Escrow,
        plans: PlanStore,
        *,
        database: Database | None = None,
        strangers: int = STRANGERS_LIMIT,
        clock: Callable[[], float] = time.time,
        changes: Changes | None = None,
        observers: Sequence[Observer] = (),
        tokens: Tokens | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._escrow = EscrowFiles(escrow) if isinstance(escrow, Path) else escrow
        self._plans = plans
        self._clock = clock
        self._limits = limits
        self.tokens = tokens or Tokens(Secret.random())
        self.changes = changes or Changes()
        self._observers = tuple(observers)
        self._pictures = Pictures()
        self._parsing = threading.BoundedSemaphore(PARSED_AT_ONCE)
        self.database = database or Database.sqlite(events.parent / FILE)
        quiet = Batches(self.database, lambda stored: None, strangers)
        older.take_in(events, quiet)
        self._batches = Batches(self.database, self._committed, strangers)

    def take(self, body: bytes, *, token: str, plan: str, client: str = "") -> Answer:
        """Store a batch and return the answer to it.

        `token` is the bearer token that came along, `plan` whom an empty batch asks for, `client`
        who counts for the limits. A batch is taken as a whole or refused as a whole, by
        `RefusalError` with 400, 401, 429, 503 or 507.
        """
        with self._parsing:
            events = _parse(body)
        if not events:
            if plan:
                self._authorize(plan, token)
            return {"accepted": 0, "escrow": True}
        plan = events[0].plan
        if not plan or any(event.plan != plan for event in events):
            raise RefusalError(400, "plan: must be given, and one for all events of a batch")
        file = self._authorize(plan, token)
        self._admit(file, client)
        answer: Answer = {"accepted": max(event.seq for event in events)}
        try:
            if any("envelope" in event.evidence for event in events):
                if len(events) > 1:
                    raise RefusalError(400, "evidence.envelope: must come in a batch of its own")
                answer["acknowledged"] = self._keep(events[0])
                events = [_without_envelope(events[0])]
            name = file.id if file else plan
            self._batches.store(Batch(name, file is not None, events, self._clock()))
        except OSError as error:
            # 5xx: the agent keeps its events and asks again.
            raise RefusalError(507, f"cannot be stored: {error.strerror or error}") from error
        except SQLAlchemyError as error:
            raise RefusalError(503, f"cannot be stored: {reason(error)}") from error
        return answer

    def log_of(self, plan: str) -> EventLog | None:
        """Return what is known of a plan now, or None if no event ever came."""
        if not PLAN_ID.fullmatch(plan):
            return None
        with self.database.reading() as connection:
            found = connection.execute(_STATES.where(logs.c.plan == plan)).first()
            return None if found is None else self._picture(connection, found)

    def rows(self) -> Iterator[Row]:
        """Yield a row for every plan that is here or has sent events."""
        plans = {plan.id: plan for plan in self._plans.all()}
        with self.database.reading() as connection:
            states = {state.plan: state for state in connection.execute(_STATES.order_by("plan"))}
            for plan, file in plans.items():
                state = states.get(plan)
                yield Row(plan, file, self._picture(connection, state) if state else None)
            for plan, state in states.items():
                if plan not in plans:
                    yield Row(plan, None, self._picture(connection, state))

    def counts(self) -> dict[str, int]:
        """Return how many events each plan has, to notice what other servers took."""
        with self.database.reading() as connection:
            found = connection.execute(select(logs.c.plan, logs.c.events))
            return {row.plan: row.events for row in found}

    def lines(self, plan: str) -> Iterator[bytes] | None:
        """Return a plan's events as pages of JSON lines, in the order of arrival; None: no plan."""
        return pages(self.database, plan)

    def lines_of(self, plan: str) -> Iterator[bytes]:
        """Yield a plan's events one line each, none for a plan that nobody has heard of."""
        for page in self.lines(plan) or ():
            yield from page.splitlines(keepends=True)

    def envelopes(self) -> int:
        """Return how many envelopes are in escrow."""
        return self._escrow.count()

    def close(self) -> None:
        self.database.close()

    def _committed(self, stored: Stored) -> None:
        known = self._pictures.get(stored.plan)
        if stored.before == 0 and (known is None or known.log != stored.log):
            known = EventLog(stored.plan, stored.log)
        # Where another server was faster, the picture is brought up to date by who looks at it.
        if known is not None and (known.log, known.count) == (stored.log, stored.before):
            now = known.after(stored.fresh, heard=stored.now, count=stored.count)
            self._pictures.put(now)
        for observer in self._observers:
            try:
                observer(stored)
            except Exception:
                log.exception("an observer of events fails; the events are stored")
        self.changes.bump(stored.plan)

    def _picture(self, connection: Connection, state: Any) -> EventLog:
        """Return the picture of a plan up to the state of its row in the database."""
        known = self._pictures.get(state.plan)
        if known is None or known.log < state.id:  # it may have been removed, and heard of again
            known = EventLog(state.plan, state.id)
        if known.count < state.events:
            missing = _since(connection, state.id, known.count, state.events)
            known = known.after(missing, heard=state.heard, count=state.events)
            self._pictures.put(known)
        elif known.heard < state.heard:
            known = replace(known, heard=state.heard)
        return known

    def _authorize(self, plan: str, token: str) -> PlanFile | None:
        """Return the plan if it is one of ours; raise 401 unless the token fits."""
        file = self._plans.find(plan) if PLAN_ID.fullmatch(plan) else None
        if file and not self.tokens.may_write(file, token):
            what = "the token is not this plan's" if token else "needs its bearer token"
            raise RefusalError(401, f"plan {plan}: {what}")
        if file is None and self.tokens.required:
            raise RefusalError(401, f"plan {plain(plan, limit=140)}: is not known here")
        return file

    def _admit(self, file: PlanFile | None, client: str) -> None:
        """Raise 429 for who sends too often: a plan of ours, or a client of unknown plans."""
        if self._limits is None:
            return
        if file is not None:
            self._limits.admit_plan(file.id)
        else:
            self._limits.charge(client)

    def _keep(self, event: Event) -> str:
        """Keep the envelope durably and return its sha256; doing it again changes nothing."""
        try:
            found = envelope_of(event)
        except EventError as error:
            raise RefusalError(400, str(error)) from None
        if found is None:
            raise RefusalError(400, "evidence.envelope: belongs to the step escrow")
        return self._escrow.keep(event.plan, found[0])


_STATES = select(logs.c.id, logs.c.plan, logs.c.events, logs.c.heard)


def _since(connection: Connection, log_id: int, after: int, upto: int) -> Iterator[Event]:
    """Yield the events of a log between two positions: all that matter, and the last progress.

    A long installation has thousands of progress events, of which only the last are looked at.
    """
    table = event_table.c
    mine = select(table.position, table.line).where(table.log == log_id, table.position <= upto)
    position = after
    kept = mine.where(table.progress.is_(False)).order_by(table.position).limit(PAGE)
    while page := connection.execute(kept.where(table.position > position)).all():
        yield from (Event.from_json(row.line) for row in page)
        position = page[-1].position
    last = mine.where(table.position > position).order_by(table.position.desc())
    newest = connection.execute(last.limit(PROGRESS_READ)).all()
    yield from (Event.from_json(row.line) for row in reversed(newest))


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
