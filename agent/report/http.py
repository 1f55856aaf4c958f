"""Events to a report URL: kept while it is down, sent in order when it answers.

The contract with the receiver is docs/events.md. The thread here is the only one that talks for
`__call__`; `deliver` and `reachable` are synchronous and use connections of their own.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from http import HTTPStatus
from pathlib import Path

import requests
import tenacity

from agent.errors import StepError
from agent.proxy import DIRECT, Proxies
from agent.report.buffer import PROGRESS_KEPT, EventBuffer
from agent.report.event import Event, EventError, envelope_of
from agent.report.post import ANSWER_SECONDS, Answer, Post, RefusedError, UnavailableError
from agent.report.text import plain
from agent.secret import Secret
from agent.tls import OLDEST

log = logging.getLogger(__name__)

BATCH_EVENTS = 500
BATCH_BYTES = 512 * 1024
LINGER = 0.5
"""Seconds that progress waits for more of its kind: two requests a second and machine, not five."""
LONGEST_PAUSE = 30.0
"""Seconds between two attempts at a sink that is down, unless it asks for more by Retry-After."""
_BACKOFF = tenacity.wait_exponential(multiplier=0.25, max=LONGEST_PAUSE) + tenacity.wait_random(
    0, 1
)
SETTLING = 2.0
"""Seconds an envelope waits for the events before it, so that they arrive first if they can."""


class HttpSink:
    """Posts events to `url` in batches, from a thread of its own; calling it never blocks.

    `token` goes out as a bearer token; `ca` is a file of PEM certificates to trust instead of the
    system's; `proxies` say the way. While the receiver is down, at most `progress_kept` progress
    events are kept, the newest; all others are. Raises `ValueError` unless `url` is http or https
    with a host.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Secret | None = None,
        ca: Path | None = None,
        minimum_tls: str = OLDEST,
        proxies: Proxies = DIRECT,
        progress_kept: int = PROGRESS_KEPT,
    ) -> None:
        self._post = Post(url, token=token, ca=ca, minimum_tls=minimum_tls, proxies=proxies)
        self._buffer = EventBuffer(progress_kept)
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._batch_limit = BATCH_EVENTS
        self._refused = False
        self._down_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="events-http", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The URL without what may be secret in it."""
        return self._post.name

    def __call__(self, event: Event) -> None:
        # An envelope is sent by `deliver`, which needs the answer.
        if "envelope" not in event.evidence:
            self._buffer.put(event)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until everything is sent; return whether it is."""
        return self._buffer.drained(timeout)

    def close(self, timeout: float) -> None:
        """Send what waits for up to `timeout` seconds, then end; the log counts what is left."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._buffer.close()
        self._thread.join(timeout)
        left = len(self._buffer)
        if left or self._buffer.dropped:
            log.warning(
                "%s: %d events were not delivered, %d progress events were dropped",
                *(self.name, left, self._buffer.dropped),
            )

    def reachable(self, plan: str = "", *, escrow: bool = False) -> str | None:
        """Return why events of this plan could not be delivered now, or None. Changes nothing.

        Posts an empty batch: it takes the way of the real ones, the token and TLS included. With
        `escrow` the receiver must also say that it keeps envelopes.
        """
        try:
            with self._post.session() as session:
                answer = self._post.send(session, b"", plan=plan)
        except (RefusedError, UnavailableError) as error:
            return f"{self.name}: {error}"
        if escrow and not answer.escrow:
            return f'{self.name}: does not say that it keeps envelopes ("escrow": true)'
        return None

    def deliver(self, event: Event, timeout: float = 300) -> str:
        """Post an escrow event alone and return the sha256 that was acknowledged for it.

        Tries again for up to `timeout` seconds while the sink is down. Raises `StepError` naming
        the sink if it stays down, refuses, or acknowledges anything but the envelope's digest.
        """
        try:
            envelope = envelope_of(event)
        except EventError as error:
            raise StepError(f"escrow: {error}") from None
        if envelope is None:
            raise StepError(f"escrow: the event of step {event.step} holds no envelope")
        digest = envelope[1]
        self.flush(min(SETTLING, timeout))
        until = time.monotonic() + timeout
        retrying = tenacity.Retrying(
            stop=lambda _: time.monotonic() >= until,
            wait=lambda state: min(_pause(state), max(0.0, until - time.monotonic())),
            retry=tenacity.retry_if_exception_type(UnavailableError),
            reraise=True,
        )
        try:
            with self._post.session() as session:
                answer = retrying(
                    lambda: self._post.send(session, event.line, patience=_left(until))
                )
        except (RefusedError, UnavailableError) as error:
            raise StepError(f"escrow: {self.name}: {error}") from None
        return self._acknowledged(answer, digest)

    def _acknowledged(self, answer: Answer, digest: str) -> str:
        if answer.acknowledged is None:
            raise StepError(f"escrow: {self.name}: took the envelope but acknowledged nothing")
        if answer.acknowledged != digest:
            raise StepError(
                f"escrow: {self.name}: acknowledged {plain(answer.acknowledged, limit=80)}, "
                f"the envelope's sha256 is {digest}"
            )
        return digest

    def _work(self) -> None:
        retrying = tenacity.Retrying(
            stop=lambda _: time.monotonic() >= self._deadline,
            wait=_pause,
            sleep=self._nap,
            retry=tenacity.retry_if_exception_type(UnavailableError),
            before_sleep=self._tell_waiting,
            reraise=True,
        )
        with self._post.session() as session:
            while self._buffer.wait(None):
                self._buffer.linger(LINGER)
                batch = self._buffer.take(BATCH_EVENTS, BATCH_BYTES)
                try:
                    retrying(self._send, session, batch)
                except UnavailableError:
                    return  # only when closing and out of time
                self._buffer.settle()

    def _send(self, session: requests.Session, batch: list[Event]) -> None:
        """Post the batch and take from it what is dealt with; the rest is for the next attempt."""
        while batch:
            part = batch[: self._batch_limit]
            try:
                answer = self._post.send(
                    session, b"".join(event.line for event in part), patience=_left(self._deadline)
                )
            except RefusedError as error:
                if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(part) > 1:
                    self._batch_limit = len(part) // 2
                    continue
                self._tell_refused(error, len(part))
                del batch[: len(part)]
                continue
            highest = part[-1].seq if answer.accepted is None else answer.accepted
            accepted = sum(event.seq <= highest for event in part)
            del batch[:accepted]
            if not accepted:
                raise UnavailableError(f"has accepted no event after {highest}")
        if self._down_since is not None:
            log.info("%s: answers again", self.name)
            self._down_since = None

    def _nap(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            # The last seconds: ask more often, but not in a spin.
            time.sleep(min(seconds, 0.1))

    def _tell_waiting(self, state: tenacity.RetryCallState) -> None:
        if self._down_since is None and state.outcome:
            self._down_since = time.monotonic()
            log.warning("%s: %s; events are kept until it answers", self.name, _error(state))

    def _tell_refused(self, error: RefusedError, count: int) -> None:
        level = logging.DEBUG if self._refused else logging.WARNING
        self._refused = True
        log.log(level, "%s: %s; %d events were dropped", self.name, error, count)


def _left(deadline: float) -> float:
    """Return how many seconds to wait for an answer: one at least, or none would ever come."""
    return max(1.0, min(ANSWER_SECONDS, deadline - time.monotonic()))


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _pause(state: tenacity.RetryCallState) -> float:
    """Return the seconds until the next attempt: longer each time, never the same for a fleet."""
    error = _error(state)
    asked = error.retry_after if isinstance(error, UnavailableError) else 0.0
    return max(asked + random.uniform(0, 1) if asked else 0.0, _BACKOFF(state))  # noqa: S311  # not for a secret
