"""The plan of a host that Foreman may not know: be discovered, and wait to be told.

    ask by MAC ── 200 ──► the plan
        │ 404: not known                      │ 401, 405, 409: known, somebody has to do something
        ▼                                     ▼
    listen on 8443, upload facts ──► wait for an order, ask by MAC every 30 s ──► 200: the plan

Once Foreman has answered anything but "not known" the host is managed, and facts are never uploaded
again: they would make a second, discovered host of it. No order is believed: it only makes us ask.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace

from agent.errors import MachineError, Problem
from agent.find import Found
from agent.foreman.address import Server, likely_card, shown, who_we_are
from agent.foreman.announcement import PORT, Announcement, Myself
from agent.foreman.facts import has_address
from agent.foreman.order import Order
from agent.foreman.source import found
from agent.foreman.standing import Judgement, Standing, judge
from agent.foreman.talk import SilenceError, Talk

log = logging.getLogger(__name__)

Show = Callable[[str], AbstractContextManager[object]]
"""Shows what is waited for, until the context ends."""


@dataclass(frozen=True)
class Pace:
    """How often, in seconds."""

    poll: float = 30.0
    soon: float = 2.0
    """Between two questions while something is under way: no network yet, or just ordered."""
    hurry: float = 120.0
    """For how long after an order the plan is asked for soon."""
    resend: float = 900.0
    """Between two uploads, for the case that somebody deleted the discovered host in Foreman."""
    retry: float = 60.0
    """After an upload that Foreman did not take."""
    card: float = 120.0
    """For how long a card with an address is waited for, where nobody says which card it is."""
    patience: float = float("inf")
    """For the whole: without an end a machine waits until somebody decides what becomes of it."""


@dataclass(frozen=True)
class Discovery:
    """Foreman as the last place that a plan may come from."""

    server: Server
    myself: Myself
    talk: Talk
    pace: Pace = Pace()
    port: int = PORT
    show: Show = lambda words: nullcontext()

    def describe(self) -> str:
        return f"Foreman at {self.server.base}"

    def read(self) -> Found | None:
        """Wait until Foreman has a plan for this machine, and return it."""
        pace = self.pace
        if not self.myself.mac:
            return replace(self, myself=replace(self.myself, mac=self._card())).read()
        announcement = Announcement(
            self.server,
            self.myself,
            self.talk,
            again=pace.resend,
            retry=pace.retry,
            port=self.port,
        )
        with ExitStack() as screen, announcement:
            return _Vigil(self, announcement, screen).plan()

    def _card(self) -> str:
        """Return the card to be known by, once one has an address: cables come up in any order."""
        until = time.monotonic() + self.pace.card
        while True:
            machine = self.myself.machine()
            mac = likely_card(machine)
            if mac is not None and (has_address(machine, mac) or time.monotonic() > until):
                return mac
            if time.monotonic() > until:
                raise MachineError([Problem("network", "this machine has no network card")])
            time.sleep(self.pace.soon)


class _Vigil:
    """One wait for the plan: what was last said, and whether Foreman has this host."""

    def __init__(self, about: Discovery, announcement: Announcement, screen: ExitStack) -> None:
        self.about, self.announcement, self.screen = about, announcement, screen
        self.managed = False
        self.words = ""
        self.hurried_until = 0.0

    def plan(self) -> Found:
        until = time.monotonic() + self.about.pace.patience
        while True:
            judgement, plan = self._by_mac()
            if plan is not None:
                return plan
            self.managed = self.managed or judgement.managed
            words, soon = judgement.words, judgement.standing is Standing.LATER
            if judgement.standing is Standing.UNKNOWN and not self.managed:
                announced = self.announcement.make()
                words += (
                    "; discovered, it waits to be provisioned there"
                    if announced
                    else f"; its card {self.about.myself.mac} has no address yet"
                )
                soon = soon or not announced
            self._tell(words)
            if time.monotonic() > until:
                raise MachineError([Problem("plan", f"{self.about.describe()} {words}")])
            plan = self._wait(soon=soon)
            if plan is not None:
                return plan

    def _by_mac(self) -> tuple[Judgement, Found | None]:
        myself = self.about.myself
        headers = who_we_are(myself.machine(), myself.mac)
        return self._ask(self.about.server.plan_url(myself.mac), headers)

    def _ask(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> tuple[Judgement, Found | None]:
        try:
            answer = self.about.talk.get(url, headers)
        except SilenceError as error:
            if error.forever:
                raise MachineError([Problem("plan", f"{shown(url)}: {error}")]) from error
            return Judgement(Standing.LATER, f"gives no answer: {error}"), None
        judgement = judge(answer.status, answer.text, token=headers is None)
        if judgement.standing is not Standing.PLAN:
            return judgement, None
        return judgement, found(answer, url, f"Foreman, for {self.about.myself.mac}")

    def _wait(self, *, soon: bool) -> Found | None:
        """Wait for an order or until it is time to ask again; return a plan that was ordered."""
        pace = self.about.pace
        soon = soon or time.monotonic() < self.hurried_until
        try:
            heard = self.announcement.orders.get(timeout=pace.soon if soon else pace.poll)
        except queue.Empty:
            return None
        if heard is None:
            return None
        self.hurried_until = time.monotonic() + pace.hurry
        plan = self._ordered(heard)
        # Whoever sends order after order makes us ask no more often than this.
        time.sleep(min(1.0, pace.soon) if plan is None else 0.0)
        return plan

    def _ordered(self, order: Order) -> Found | None:
        if order.plan is None:
            return None
        judgement, plan = self._ask(order.plan.text)
        if plan is None:
            log.warning("foreman: the plan that was ordered: %s", judgement.words)
        return plan

    def _tell(self, words: str) -> None:
        if words == self.words:
            return
        self.words = words
        text = f"{self.about.describe()} {words}"
        log.warning("%s", text)
        self.screen.close()
        self.screen.enter_context(self.about.show(text))
