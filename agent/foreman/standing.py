"""What Foreman's answer to "where is my plan" means: unattended_controller.rb, by status and text.

Foreman answers 404 for two things that are worlds apart: no such host, and a host whose operating
system has no provisioning template. Only the text tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agent.report.text import plain


class Standing(Enum):
    """How this machine stands with Foreman."""

    PLAN = "the plan"
    UNKNOWN = "not known"
    WAITING = "known, and its plan is not to be had until somebody does something"
    LATER = "not to be had now"
    REFUSED = "no"


@dataclass(frozen=True)
class Judgement:
    """A standing, and in words what would have to be done."""

    standing: Standing
    words: str

    @property
    def managed(self) -> bool:
        """Whether Foreman has this host; then facts are never uploaded again."""
        return self.standing in (Standing.PLAN, Standing.WAITING)


def judge(status: int, text: str, *, token: bool) -> Judgement:
    """Judge the answer to a request for the plan, made with a token or with a MAC."""
    said = plain(" ".join(text.split()), limit=300)
    if status == 200:
        return Judgement(Standing.PLAN, "")
    if status == 404 and "template for" in said:
        words = f"has no provisioning template for this host's operating system: {said}"
        return Judgement(Standing.WAITING, words)
    if status == 404:
        return Judgement(Standing.UNKNOWN, _unknown(token))
    if status in _MEANINGS:
        return Judgement(*_MEANINGS[status])
    if status == 500 and "error rendering" in said.lower():
        return Judgement(Standing.WAITING, f"cannot render the plan: {said}")
    if status in (408, 425, 429) or status >= 500:
        return Judgement(Standing.LATER, f"answers {status}: {said}")
    return Judgement(Standing.REFUSED, f"answers {status}: {said}")


_MEANINGS = {
    401: (
        Standing.WAITING,
        "says that the host's token has expired: build the host again there",
    ),
    405: (Standing.WAITING, "knows this host, and it is not in build mode: press Build there"),
    409: (
        Standing.WAITING,
        "knows this host without an operating system, or one without a family: choose one there",
    ),
}


def _unknown(token: bool) -> str:
    if token:
        return (
            "knows no host with this token: it was used, has expired, or belongs to an earlier "
            "build; start the machine again from the network"
        )
    return "does not know this machine"
