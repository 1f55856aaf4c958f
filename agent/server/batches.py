"""Batches of events into the database: each event once, many batches in one transaction.

Whoever comes while a transaction is being committed waits and then goes into the next one together
with all the others that wait: one sync of the disk for a fleet, not one a machine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from agent.report.event import Event
from agent.server.database import Database, events, insert_once, logs, reason, senders
from agent.server.refusal import RefusalError

SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes of one plan's events: a hundred installations."""
STRANGER_SIZE_LIMIT = 8 * 1024 * 1024
"""The same for a plan that is not in this directory: a few installations."""
RUNS_LIMIT = 1000
STRANGERS_LIMIT = 1000
"""Plans that are not in this directory and may nevertheless send events, to keep a bound."""
TOGETHER = 200
"""Batches in one transaction: it holds the database's write lock for a fraction of a second."""


@dataclass
class Batch:
    """The events of one request. `known` says whether the plan is in the directory."""

    plan: str
    known: bool
    events: Sequence[Event]
    now: float
    outcome: Stored | Exception | None = field(default=None, repr=False)

    @property
    def durable(self) -> bool:
        return not all(event.is_progress for event in self.events)


@dataclass(frozen=True)
class Stored:
    """What a batch came to: its events that were new, and how many the plan had before."""

    plan: str
    log: int
    fresh: tuple[Event, ...]
    before: int
    now: float

    @property
    def count(self) -> int:
        return self.before + len(self.fresh)


class Batches:
    """Takes batches from any thread. `committed` is called in order, by one thread at a time."""

    def __init__(
        self,
        database: Database,
        committed: Callable[[Stored], None],
        strangers: int = STRANGERS_LIMIT,
    ) -> None:
        self._database = database
        self._committed = committed
        self._strangers = strangers
        self._turn = threading.Lock()
        self._waiting: deque[Batch] = deque()

    def store(self, batch: Batch) -> Stored:
        """Store the events that are new, in their order; they are in the database on return.

        A batch of progress alone is not forced to the disk: a power cut may lose it. Raises
        `RefusalError` 507 when there is no room for it, 503 when the database does not answer;
        nothing of the batch is stored then.
        """
        if not batch.known:
            # Whom there is no room for shall not make the others wait for the write lock.
            with self._database.reading() as connection:
                self._refuse_one_more(connection, batch)
        self._waiting.append(batch)
        with self._turn:
            if batch.outcome is None:
                count = min(len(self._waiting), TOGETHER)
                together = [self._waiting.popleft() for _ in range(count)]
                if batch not in together:  # more wait than fit; the others go first
                    self._waiting.remove(batch)
                    together.append(batch)
                self._commit(together)
        if isinstance(batch.outcome, Exception):
            raise batch.outcome
        assert batch.outcome is not None
        return batch.outcome

    def _commit(self, together: list[Batch]) -> None:
        # By plan, so that two servers never wait for each other's rows; stable within a plan.
        together = sorted(together, key=lambda batch: batch.plan)
        stored: list[tuple[Batch, Stored]] = []
        try:
            with self._database.writing(durable=any(b.durable for b in together)) as connection:
                for batch in together:
                    try:
                        stored.append((batch, self._insert(connection, batch)))
                    except RefusalError as refusal:
                        batch.outcome = refusal
        except Exception as error:
            for batch in together:
                batch.outcome = batch.outcome or _unstored(error)
            if not isinstance(error, SQLAlchemyError):
                raise
            return
        for batch, done in stored:
            batch.outcome = done
            self._committed(done)

    def _insert(self, connection: Connection, batch: Batch) -> Stored:
        once: dict[tuple[str, str, int], Event] = {}
        for event in batch.events:
            once.setdefault((event.machine, event.run, event.seq), event)
        sending = {(machine, run) for machine, run, _ in once}
        if len(sending) > RUNS_LIMIT:
            raise _no_room(batch.plan)
        log = self._log(connection, batch)
        known = _known(connection, log.id, sending)
        fresh = _fresh(connection, known, list(once.values()))
        size = sum(len(event.line) for event in fresh)
        runs = log.runs + len(sending - known.keys())
        limit = SIZE_LIMIT if batch.known else STRANGER_SIZE_LIMIT
        if log.bytes + size > limit or runs > RUNS_LIMIT:
            raise _no_room(batch.plan)
        if fresh:
            _write(connection, log, known, fresh)
        changed = {"events": log.events + len(fresh), "bytes": log.bytes + size, "runs": runs}
        connection.execute(_UPDATE_LOG, {"its_id": log.id, "heard": batch.now, **changed})
        return Stored(batch.plan, log.id, tuple(fresh), log.events, batch.now)

    def _log(self, connection: Connection, batch: Batch) -> Any:
        """Return the plan's row, locked until the end of the transaction."""
        found = connection.execute(_SELECT_LOG, {"its_plan": batch.plan}).first()
        if found is None:
            if not batch.known:
                self._refuse_one_more(connection, batch)
            empty = {"events": 0, "bytes": 0, "runs": 0, "heard": batch.now}
            insert_once(connection, logs, {"plan": batch.plan, "known": batch.known, **empty})
            found = connection.execute(_SELECT_LOG, {"its_plan": batch.plan}).one()
        return found

    def _refuse_one_more(self, connection: Connection, batch: Batch) -> None:
        """Raise 507 if this plan, which is not in the directory, would be one too many."""
        if connection.execute(_SELECT_ID, {"its_plan": batch.plan}).first() is not None:
            return
        if connection.execute(_COUNT_STRANGERS).scalar_one() >= self._strangers:
            raise RefusalError(507, "too many plans that this server does not know")


_SELECT_ID = select(logs.c.id).where(logs.c.plan == bindparam("its_plan"))
_COUNT_STRANGERS = select(func.count()).where(logs.c.known.is_(False))
_SELECT_LOG = select(logs).where(logs.c.plan == bindparam("its_plan")).with_for_update()
_UPDATE_LOG = (
    update(logs)
    .where(logs.c.id == bindparam("its_id"))
    .values({name: bindparam(name) for name in ("events", "bytes", "runs", "heard")})
)
_UPDATE_SENDER = (
    update(senders)
    .where(senders.c.id == bindparam("its_id"))
    .values(highest=bindparam("its_highest"))
)
_SELECT_SENDER = (
    select(senders.c.id, senders.c.highest)
    .where(senders.c.log == bindparam("its_log"))
    .where(senders.c.machine == bindparam("its_machine"))
    .where(senders.c.run == bindparam("its_run"))
)
_SELECT_SEQS = select(events.c.seq).where(
    events.c.sender == bindparam("its_sender"),
    events.c.seq.between(bindparam("least"), bindparam("most")),
)
_Sender = tuple[str, str]


def _known(connection: Connection, log: int, sending: set[_Sender]) -> dict[_Sender, Any]:
    found = {}
    for machine, run in sending:
        names = {"its_log": log, "its_machine": machine, "its_run": run}
        row = connection.execute(_SELECT_SENDER, names).first()
        if row is not None:
            found[machine, run] = row
    return found


def _fresh(connection: Connection, known: dict[_Sender, Any], wanted: list[Event]) -> list[Event]:
    """Return those events that are not stored yet."""
    seen: dict[_Sender, set[int]] = {}
    for sender, row in known.items():
        seqs = [event.seq for event in wanted if (event.machine, event.run) == sender]
        if min(seqs) <= row.highest:  # seldom: a replay, or a batch that was overtaken
            names = {"its_sender": row.id, "least": min(seqs), "most": max(seqs)}
            seen[sender] = set(connection.execute(_SELECT_SEQS, names).scalars())
    return [e for e in wanted if e.seq not in seen.get((e.machine, e.run), ())]


def _write(connection: Connection, log: Any, known: dict[_Sender, Any], fresh: list[Event]) -> None:
    ids = {sender: row.id for sender, row in known.items()}
    highest: dict[_Sender, int] = {}
    for event in fresh:
        sender = (event.machine, event.run)
        highest[sender] = max(event.seq, highest.get(sender, 0))
    for (machine, run), most in highest.items():
        if (machine, run) in known:
            if most > known[machine, run].highest:
                row = {"its_id": ids[machine, run], "its_highest": most}
                connection.execute(_UPDATE_SENDER, row)
            continue
        row = {"log": log.id, "machine": machine, "run": run, "highest": most}
        made = connection.execute(insert(senders).values(row)).inserted_primary_key
        assert made is not None
        ids[machine, run] = made[0]
    rows = [
        {
            "log": log.id,
            "position": position,
            "sender": ids[event.machine, event.run],
            "seq": event.seq,
            "progress": event.is_progress,
            "line": event.line.decode("utf-8"),
        }
        for position, event in enumerate(fresh, start=log.events + 1)
    ]
    connection.execute(insert(events), rows)


def _no_room(plan: str) -> RefusalError:
    message = f"plan {plan}: has as many events as are kept; bedplate events remove makes room"
    return RefusalError(507, message)


def _unstored(error: Exception) -> RefusalError:
    # 5xx: the agent keeps its events and asks again.
    text = reason(error) if isinstance(error, SQLAlchemyError) else type(error).__name__
    return RefusalError(507 if "full" in text else 503, f"cannot be stored: {text}")
