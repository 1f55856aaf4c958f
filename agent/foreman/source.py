"""The plan of a host that Foreman knows: by the URL that its boot entry names.

The URL holds the host's token, so it is shown nowhere; the plan is fetched once and kept, because
the token ends while the installation runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.errors import MachineError, Problem
from agent.find import Found
from agent.foreman.address import failed_beside, shown
from agent.foreman.standing import Judgement, Standing, judge
from agent.foreman.talk import Answer, SilenceError, Talk
from agent.secret import Secret

log = logging.getLogger(__name__)

PATIENCE = 180.0
"""Seconds to wait for the network and Foreman before giving up, as for any other plan."""
PAUSE = 5.0


@dataclass(frozen=True)
class ForemanFound(Found):
    """A plan from Foreman, which can be told of a failure even if the plan cannot be read."""

    failed: Secret = field(default_factory=lambda: Secret(""), compare=False)


def found(answer: Answer, asked: str, where: str) -> ForemanFound:
    """Return the plan in an answer to the URL `asked`."""
    return ForemanFound(
        where=f"{shown(answer.url)} ({where})",
        content=answer.content,
        url=shown(answer.url),
        server_time=answer.server_time,
        failed=Secret(failed_beside(asked)),
    )


@dataclass(frozen=True)
class ForemanPlan:
    """`bedplate.plan=https://foreman.example.com/unattended/provision?token=…`."""

    url: Secret
    talk: Talk
    patience: float = PATIENCE
    pause: float = PAUSE
    wait: Callable[[float], object] = field(default_factory=lambda: threading.Event().wait)

    def describe(self) -> str:
        return shown(self.url.text)

    def read(self) -> Found | None:
        """Return the plan; ask again for a while where Foreman is not able to give it yet."""
        url, until = self.url.text, time.monotonic() + self.patience
        while True:
            try:
                answer = self.talk.get(url)
            except SilenceError as error:
                reason, again = str(error), not error.forever
            else:
                judgement = judge(answer.status, answer.text, token="token=" in url)
                if judgement.standing is Standing.PLAN:
                    return found(answer, url, "Foreman")
                reason, again = judgement.words, _again(judgement, answer.status)
            if not again or time.monotonic() > until:
                raise MachineError([Problem("plan", f"{shown(url)}: {reason}")])
            log.warning("plan: %s: %s; trying again", shown(url), reason)
            self.wait(self.pause)


def _again(judgement: Judgement, status: int) -> bool:
    """Tell whether to ask again: 409 is also what an orchestration under way looks like."""
    return judgement.standing is Standing.LATER or status == 409
