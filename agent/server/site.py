"""The served directory with everything over it: stores, limits, tokens, and who is told of news."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from agent.errors import MachineError, Problem
from agent.secret import Secret
from agent.server.board import Board
from agent.server.changes import Changes
from agent.server.database import FILE, Database, reason
from agent.server.escrow import EscrowFiles, EscrowTable
from agent.server.events import EventStore, Observer
from agent.server.metrics import Metrics
from agent.server.operators import Operators
from agent.server.options import Options
from agent.server.overview import totals
from agent.server.plans import PlanStore
from agent.server.tokens import Tokens
from agent.server.webhook import Webhook

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
DIRECTORIES = {"plans": 0o755, "images": 0o755, "events": 0o750, "escrow": 0o700}


@dataclass(frozen=True)
class Site:
    """The stores, and what observes them. `close` ends the threads."""

    images: Path
    plans: PlanStore
    store: EventStore
    board: Board
    tokens: Tokens
    operators: Operators | None
    metrics: Metrics
    options: Options
    closing: tuple[Callable[[], None], ...]

    @classmethod
    def open(cls, directory: Path, options: Options) -> Site:
        """Use `directory`, making `plans`, `images`, `events` and `escrow` where they are missing.

        Raises `OSError` where that is not possible, `MachineError` for an option that cannot be.
        """
        root = directory.resolve(strict=True)
        for name, mode in DIRECTORIES.items():
            (root / name).mkdir(mode=mode, exist_ok=True)
        # Each may be a link to elsewhere; links inside them may not lead out of them.
        plans, images, events, escrow = ((root / name).resolve() for name in DIRECTORIES)
        database = open_database(root, options.database)
        operators = None
        if options.operators is not None:
            operators = Operators(options.operators, database.key("sessions"))
        metrics = Metrics(lambda: totals(board.entries()), lambda: store.envelopes())
        observers, closing = _observers(options, metrics)
        store = EventStore(
            events,
            EscrowTable(database) if database.shared else EscrowFiles(escrow),
            plan_store := PlanStore(plans),
            database=database,
            tokens=tokens_of(database, options),
            limits=options.limits,
            changes=(changes := Changes()),
            observers=observers,
        )
        board = Board(store, changes)
        if database.shared:
            closing.append(_Neighbours(store).close)
        return cls(
            images=images,
            plans=plan_store,
            store=store,
            board=board,
            tokens=store.tokens,
            operators=operators,
            metrics=metrics,
            options=options,
            closing=(*closing, store.close),
        )

    def close(self) -> None:
        """Let observers send what waits, for a few seconds at most, and close the database."""
        for close in self.closing:
            close()


def open_database(root: Path, url: Secret | None) -> Database:
    """Open the database of a directory: PostgreSQL by its URL, or else the SQLite file in it."""
    return Database.at(url.text) if url is not None else Database.sqlite(root / FILE)


def tokens_of(database: Database, options: Options) -> Tokens:
    key = Secret(database.key("tokens"))
    return Tokens(key, mint=options.mint_tokens, required=options.require_token)


def _observers(
    options: Options, metrics: Metrics
) -> tuple[list[Observer], list[Callable[[], None]]]:
    observers: list[Observer] = [metrics]
    closing: list[Callable[[], None]] = []
    if options.webhook:
        secret = options.webhook_secret
        webhook = Webhook(options.webhook, secret=secret, dropped=metrics.dropped)
        observers.append(webhook)
        closing.append(webhook.close)
    if options.otlp:
        # Late: an extra of its own, which most servers do without.
        try:
            from agent.server.traces import Traces
        except ModuleNotFoundError as error:
            message = f'needs {error.name}: install it with pip install "bedplate[otel]"'
            raise MachineError([Problem("otlp", message)]) from error
        traces = Traces(options.otlp)
        observers.append(traces)
        closing.append(traces.close)
    return observers, closing


class _Neighbours:
    """Notices what other servers have stored in the same database.

    It asks for the number of events of each plan, once a second: a few kilobytes for a fleet, and
    unlike LISTEN it works through every pooler and needs nothing to be remembered after a break.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._ending = threading.Event()
        self._known: dict[str, int] = store.counts()
        self._thread = threading.Thread(target=self._work, name="neighbours", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(5)

    def _work(self) -> None:
        well = True
        while not self._ending.wait(POLL_SECONDS):
            try:
                counts = self._store.counts()
            except SQLAlchemyError as error:
                if well:
                    log.warning("%s: %s", self._store.database.name, reason(error))
                well = False
                continue
            well = True
            for plan, count in counts.items():
                if self._known.get(plan) != count:
                    self._store.changes.bump(plan)
            self._known = counts
