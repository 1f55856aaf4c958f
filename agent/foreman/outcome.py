"""Tell Foreman how it ended: `built` or `failed`, once, and a config report if it is asked for.

Foreman ends the host's build mode with either, deletes the token, and lets the machine boot from
its own disk. A machine that leaves before it was heard boots into the live image again: so this
waits for its answer longer than other sinks do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.foreman.address import shown
from agent.foreman.config_report import Entry, config_report
from agent.foreman.story import story
from agent.foreman.talk import JSON, TEXT, Answer, ElsewhereError, SilenceError, Talk
from agent.report.checklist import Checklist
from agent.report.event import Event, State
from agent.report.text import plain
from agent.secret import Secret

log = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds in which the outcome is tried to be told, whatever time the others get."""
FAILED_PATIENCE = 120.0
"""The same after a failure: the machine stays, and somebody at its console waits for a shell."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
DONE_ALREADY = (404, 405)
"""The token is gone, or the host not in build mode: an earlier request got through."""
TRY_AGAIN = (408, 409, 425, 429)
"""409: orchestration (DHCP, TFTP) failed and the host was not saved."""


@dataclass(frozen=True)
class Login:
    """Where a config report goes, and as whom."""

    url: str
    user: str
    token: Secret
    host: str


@dataclass(frozen=True)
class Where:
    """What is told where. `built` is None where only a failure is told."""

    failed: Secret
    built: Secret | None = None
    report: Login | None = None


class Outcome:
    """A sink that keeps the check list and tells Foreman of the last event alone.

    `pause` is what is waited before the second attempt, in seconds; it doubles.
    """

    def __init__(
        self, where: Where, talk: Talk, *, patience: float = PATIENCE, pause: float = FIRST_PAUSE
    ) -> None:
        # An attempt may take the half of it, so that there is a second one.
        self._talk = replace(talk, patience=min(talk.patience, patience / 2))
        self._where: Where | None = where
        self._patience, self._pause = patience, pause
        self._steps = Checklist()
        self._entries: list[Entry] = []
        self._telling: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Where a failure would be told, without what is secret in it."""
        return shown(self._where.failed.text) if self._where else "Foreman"

    def move(self, where: Where | None) -> None:
        """Tell it there instead, as the plan says; None to tell nobody."""
        self._where = where

    def __call__(self, event: Event) -> None:
        self._steps.update(event)
        self._entries += Entry.of(event)
        if event.is_last and self._where is not None:
            self._telling = threading.Thread(
                target=self._tell, args=(event, self._where), name="foreman", daemon=True
            )
            self._telling.start()

    def close(self, timeout: float) -> None:
        """Wait until Foreman was told; as long as that is tried, even if `timeout` is shorter."""
        del timeout
        if self._telling is not None:
            self._telling.join(self._patience + self._talk.patience)

    def reachable(self, plan: str = "", *, escrow: bool = False) -> str | None:
        """Return why Foreman could not be told, or None. Asks for its front page: changes nothing.

        Its own addresses must not be asked to see whether they answer: a GET of `built` counts.
        Foreman keeps no envelopes and is not asked to.
        """
        del plan, escrow
        if self._where is None:
            return None
        address = shown(self._where.failed.text)
        front = "/".join(address.split("/")[:3]) + "/"
        try:
            self._talk.get(front)
        except ElsewhereError:  # to where people log in: Foreman is there
            return None
        except SilenceError as error:
            return f"{front}: {error}"
        return None

    def _tell(self, last: Event, where: Where) -> None:
        failed = last.state is State.FAILED
        patience = min(self._patience, FAILED_PATIENCE) if failed else self._patience
        until = time.monotonic() + patience
        try:
            self._tell_outcome(last, where, until)
            if where.report is not None:
                self._report(last, where.report, until)
        except Exception:
            log.exception("foreman: could not be told how it ended")

    def _tell_outcome(self, last: Event, where: Where, until: float) -> None:
        if last.state is State.FAILED:
            url, body = where.failed, story(last, self._steps)
        elif where.built is not None:
            url, body = where.built, b"installed by bedplate\n"
        else:
            return
        self._deliver(shown(url.text), until, lambda: self._talk.post(url.text, body, TEXT))

    def _report(self, last: Event, login: Login, until: float) -> None:
        body = config_report(login.host, last, self._entries)
        who = (login.user, login.token)
        self._deliver(shown(login.url), until, lambda: self._talk.post(login.url, body, JSON, who))

    def _deliver(self, name: str, until: float, post: Callable[[], Answer]) -> None:
        """Post until it is settled or until that moment; log which it was."""
        pause, perhaps = self._pause, False
        while True:
            try:
                answer = post()
            except SilenceError as error:
                perhaps = perhaps or error.sent
                reason, again = str(error), not error.forever
            else:
                if 200 <= answer.status < 300:
                    log.info("%s: was told", name)
                    return
                if answer.status in DONE_ALREADY and perhaps:
                    log.info("%s: was told by a request whose answer was lost", name)
                    return
                said = plain(" ".join(answer.text.split()), limit=200)
                reason = f"answers {answer.status}" + (f": {said}" if said else "")
                again = answer.status in TRY_AGAIN or answer.status >= 500
                # What stands between (a proxy that gave up) may have passed it on.
                perhaps = perhaps or answer.status in (502, 503, 504)
            if not again or time.monotonic() + pause > until:
                log.warning("%s: was not told: %s", name, reason)
                return
            log.warning("%s: %s; trying again", name, reason)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
