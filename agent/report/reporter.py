"""Make events out of what the engine does, and hand each to every sink.

The reporter numbers the events, times the steps, holds progress to five events a second, and keeps
the log's tail for failures. Nothing a sink does reaches the install: a sink that raises is logged
and asked again next time.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.errors import AgentError, StepError
from agent.report.event import (
    ESCROW_STEP,
    LINE_LIMIT,
    MESSAGE_LIMIT,
    NAME_LIMIT,
    PLAN_ID,
    RUN_STEP,
    Event,
    State,
    envelope_evidence,
)
from agent.report.evidence import Json, fit, jsonable
from agent.report.pace import Figures, Pace
from agent.report.sink import Closes, EscrowSink, Sink
from agent.report.tail import LogTail
from agent.report.text import cut, plain

log = logging.getLogger(__name__)

PROGRESS_INTERVAL = 0.2
"""Least seconds between two progress events of a run: five a second, whatever the steps do."""
EVIDENCE_LIMIT = LINE_LIMIT - 32 * 1024
"""Bytes of evidence kept in one event; the message needs up to 24 KiB with its escapes."""
REPORT_LIMIT = 128 * 1024
LOG_TAIL_SIZE = 40 * 1024
HISTORY = 1000
"""Events kept for sinks that are attached later; progress is not kept."""


@dataclass(frozen=True)
class Clock:
    """Where times come from: `wall` for the events, `monotonic` for durations; both in seconds."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class StepRun:
    """One step while it runs: takes its progress and, at the end, its evidence."""

    def __init__(self, reporter: Reporter, name: str, unit: str) -> None:
        self.name = name
        self.unit = unit
        self.pace = Pace(reporter.clock.monotonic())
        self._reporter = reporter
        self._evidence: dict[str, Json] = {}
        self.message = ""

    def progress(self, done: int, total: int | None = None, unit: str = "") -> None:
        """Tell how far the step is; may be called as often as is convenient, from any thread."""
        self._reporter.step_progress(self, done, total, unit or self.unit)

    @property
    def evidence(self) -> dict[str, Json]:
        """What goes into the `finished` event; a `Secret` in it raises `TypeError` at once."""
        return self._evidence

    @evidence.setter
    def evidence(self, evidence: Mapping[str, object]) -> None:
        self._evidence = jsonable(evidence)


class Reporter:
    """Turns steps into events for the sinks. All methods may be called from any thread.

    `plan` and `machine` may be empty at first and be given by `identify` once they are known.
    """

    def __init__(
        self,
        plan: str,
        machine: str,
        sinks: Sequence[Sink] = (),
        *,
        clock: Clock | None = None,
        tail: LogTail | None = None,
        run: str | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.run = secrets.token_hex(8) if run is None else run
        self._plan = ""
        self._machine = ""
        self._sinks = list(sinks)
        self._tail = tail
        self._lock = threading.RLock()
        self._began = self.clock.monotonic()
        self._seq = 0
        self._next_progress = self._began
        self._steps: list[StepRun] = []
        self._history: list[Event] = []
        self._faulty: set[int] = set()
        self._over = False
        self.identify(plan=plan, machine=machine)

    def identify(self, *, plan: str | None = None, machine: str | None = None) -> None:
        """Say what the following events are about, as soon as it is known.

        Raises `ValueError` for a plan id that is not 1 to 128 letters, digits, `.`, `_` or `-`.
        """
        if plan and not PLAN_ID.fullmatch(plan):
            raise ValueError(f"plan id: {plain(plan, limit=150)} must match {PLAN_ID.pattern}")
        with self._lock:
            self._plan = self._plan if plan is None else plan
            self._machine = self._machine if machine is None else plain(machine, limit=NAME_LIMIT)

    def attach(self, sink: Sink) -> None:
        """Add a sink; it is first given what it missed, under the plan and machine known by now."""
        with self._lock:
            self._sinks.append(sink)
            for event in self._history:
                known = replace(
                    event, plan=event.plan or self._plan, machine=event.machine or self._machine
                )
                self._give(sink, known)

    def announce(self, steps: Sequence[tuple[str, str]], title: str = "") -> None:
        """Tell which steps (name, title) will follow, so that a display can show what is left."""
        evidence = {"steps": [{"name": name, "title": title} for name, title in steps]}
        figures = Figures(total=len(steps), unit="steps")
        self._emit(RUN_STEP, State.STARTED, title, jsonable(evidence), figures)

    @contextlib.contextmanager
    def step(self, name: str, title: str = "", unit: str = "") -> Iterator[StepRun]:
        """Report a step: `started` now, `finished` or `failed` when the body ends.

        The last figures given to `progress` go out with that last event. An exception is reported
        with the log's tail and goes on.
        """
        current = StepRun(self, name, unit)
        self._emit(name, State.STARTED, title)
        with self._lock:
            self._steps.append(current)
        try:
            yield current
        except BaseException as error:
            self._end(current, State.FAILED, _reason(error), self._blame(error))
            raise
        self._end(current, State.FINISHED, current.message, current.evidence)

    def progress(self, done: int, total: int | None = None, unit: str = "") -> None:
        """Tell how far the innermost running step is; without one it is told to nobody."""
        with self._lock:
            current = self._steps[-1] if self._steps else None
        if current:
            current.progress(done, total, unit)

    def step_progress(self, current: StepRun, done: int, total: int | None, unit: str) -> None:
        """Take a step's figures and let them out if the last ones are 0.2 s old (`StepRun`)."""
        with self._lock:
            current.pace.update(done, total, unit)
            now = self.clock.monotonic()
            if now < self._next_progress or current not in self._steps:
                return
            self._next_progress = now + PROGRESS_INTERVAL
            self._emit(current.name, State.PROGRESS, figures=current.pace.figures(now))

    def deliver(self, envelope: bytes, meta: Mapping[str, object], timeout: float = 300) -> str:
        """Hand a CMS envelope (DER) to every sink that keeps envelopes; return its sha256 in hex.

        `meta` says which machine and volume it is for. Waits up to `timeout` seconds for each sink
        and raises `StepError` with every sink's reason unless at least one acknowledged just this
        envelope. Other sinks see it as an event.
        """
        evidence = envelope_evidence(envelope, meta)
        event = self._emit(ESCROW_STEP, State.PROGRESS, "recovery key envelope", evidence)
        reasons: list[str] = []
        digests: list[str] = []
        for sink in list(self._sinks):
            if not isinstance(sink, EscrowSink):
                continue
            try:
                digests.append(sink.deliver(event, timeout))
                log.info("escrow: %s acknowledged %s", sink.name, digests[-1])
            except StepError as error:
                log.warning("%s", error)
                reasons.append(str(error))
        if not digests:
            raise StepError("; ".join(reasons) or "escrow: no report sink keeps envelopes")
        return digests[0]

    def final(
        self, report: Mapping[str, object], *, error: str = "", advice: Sequence[str] = ()
    ) -> Event:
        """Emit the last event: the install report, and why it failed and what to do if it did."""
        evidence: dict[str, Json] = {
            "seconds": self._seconds(self._began),
            "report": fit(jsonable(report), REPORT_LIMIT),
        }
        if advice:
            evidence["advice"] = [line[:500] for line in advice[:10]]
        if error:
            evidence["log"] = self._log_tail()
        state = State.FAILED if error else State.FINISHED
        with self._lock:
            event = self._emit(RUN_STEP, state, error, evidence)
            self._over = True
            return event

    def close(self, timeout: float = 10) -> None:
        """Let every sink send what is waiting, for about `timeout` seconds in all.

        A sink that is down may use up the time; half a second is left for each of the others.
        """
        deadline = self.clock.monotonic() + timeout
        for sink in self._sinks:
            if isinstance(sink, Closes):
                try:
                    sink.close(max(0.5, deadline - self.clock.monotonic()))
                except Exception:
                    log.warning("a report sink could not be closed", exc_info=True)

    def _end(
        self, current: StepRun, state: State, message: str, evidence: Mapping[str, Json]
    ) -> None:
        with self._lock:
            self._steps.remove(current)
            self._emit(
                current.name,
                state,
                message,
                {"seconds": self._seconds(current.pace.began), **evidence},
                current.pace.outcome(self.clock.monotonic()),
            )

    def _blame(self, error: BaseException) -> dict[str, Json]:
        evidence: dict[str, Json] = {"error": type(error).__name__, "log": self._log_tail()}
        if isinstance(error, Exception) and not isinstance(error, AgentError):
            frames = "".join(traceback.format_exception(error)).splitlines()
            evidence["traceback"] = [line[:200] for line in frames[-40:]]
        return evidence

    def _log_tail(self) -> list[Json]:
        return list(self._tail.lines(LOG_TAIL_SIZE)) if self._tail else []

    def _seconds(self, since: float) -> float:
        return round(self.clock.monotonic() - since, 3)

    def _emit(
        self,
        step: str,
        state: State,
        message: str = "",
        evidence: Mapping[str, Json] | None = None,
        figures: Figures = Figures(),  # noqa: B008  # frozen
    ) -> Event:
        with self._lock:
            event = Event(
                plan=self._plan,
                machine=self._machine,
                run=self.run,
                seq=self._seq + 1,
                time=round(self.clock.wall(), 3),
                step=step,
                state=state,
                done=figures.done,
                total=figures.total,
                unit=figures.unit,
                rate=figures.rate,
                message=cut(message, MESSAGE_LIMIT),
                evidence=fit(evidence, EVIDENCE_LIMIT) if evidence else {},
            )
            if self._over:
                log.warning("%s %s: came after the last event of the run", step, state)
                return event
            self._seq += 1
            if not event.is_progress and len(self._history) < HISTORY:
                self._history.append(event)
            for sink in self._sinks:
                self._give(sink, event)
            return event

    def _give(self, sink: Sink, event: Event) -> None:
        try:
            sink(event)
        except Exception:
            # The operator loses a display, not the installation.
            if id(sink) not in self._faulty:
                self._faulty.add(id(sink))
                log.warning("a report sink fails; the install goes on", exc_info=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, AgentError):
        return str(error)
    if isinstance(error, Exception):
        return f"{type(error).__name__}: {error}"
    return "interrupted"
