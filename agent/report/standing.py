"""What a machine has proven of itself so far: its mirrors, its unlocking, its seal, its times.

A check list is about one run. This outlives runs: that a machine is sealed is told by its first
boot, in a run of its own, and a later run that only looks changes nothing of what is on the disks.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.report.event import RUN_STEP, Event, State
from agent.report.evidence import Json
from agent.report.text import cut

SEAL_STEP = "seal"
"""What the installed system calls its only step, on its first boot."""
STEPS_KEPT = 64


class Standing:
    """Folded from events in any order; never raises. Words are empty until something is known.

    Its values are replaced and never changed, so that `copy.copy` makes an independent one.
    """

    def __init__(self) -> None:
        self.run = ""
        self.began = 0.0
        """The first event of the last run, in Unix seconds by the machine's clock; so the next."""
        self.latest = 0.0
        self.ended: float | None = None
        self.took: float | None = None
        """Seconds of the last run that ended, as its last event says."""
        self.seconds: dict[str, float] = {}
        """How long each step of that run took."""
        self._proven_nothing()

    def _proven_nothing(self) -> None:
        self.mirror = ""
        """`made`, `whole` or `degraded`."""
        self.unlock = ""
        """`bound`, `proven` or `not proven`."""
        self.policy = ""
        self.seal = ""
        """`provisional`, `sealed` or `failed`."""

    def take(self, event: Event) -> None:
        """Take the next event."""
        if event.step == SEAL_STEP:
            words = {State.FINISHED: "sealed", State.FAILED: "failed"}
            self.seal = words.get(event.state, self.seal)
            return
        if event.run != self.run:
            self.run, self.began, self.latest = event.run, event.time, event.time
            self.ended, self.took, self.seconds = None, None, {}
        self.latest = max(self.latest, event.time)
        if event.step == RUN_STEP:
            self._about_the_run(event)
        elif event.state is State.FINISHED:
            self._learn(event)

    def _about_the_run(self, event: Event) -> None:
        if event.is_last:
            self.ended, self.took = event.time, _seconds(event)
        elif event.state is State.STARTED:
            # From here on the disks are written: what they had proven is gone.
            self._proven_nothing()

    def _learn(self, event: Event) -> None:
        seconds = _seconds(event)
        if seconds is not None and len(self.seconds) < STEPS_KEPT:
            self.seconds = {**self.seconds, event.step: seconds}
        match event.step:
            case "mirror-disks":
                self.mirror = "made"
            case "prove-target" | "close-target":
                whole = tuple(_whole(event.evidence.get("mirrors")))
                if whole:
                    self.mirror = "whole" if all(whole) else "degraded"
            case "bind-unlock":
                self.unlock, self.policy = "bound", _word(event.evidence.get("policy"))
                self.seal = _sealed(event.evidence.get("state"))
            case "prove-unlock":
                said = event.evidence.get("unlock")
                self.unlock = "proven" if said == "proven" else "not proven"
                self.seal = _sealed(event.evidence.get("state"))
            case _:
                pass


def number(value: object) -> float | None:
    """Return a JSON number as a float; None for anything else, `true` too."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _seconds(event: Event) -> float | None:
    seconds = number(event.evidence.get("seconds"))
    return None if seconds is None else max(0.0, seconds)


def _whole(mirrors: Json) -> Iterator[bool]:
    """Yield for each mirror with figures whether all its members are active."""
    each = list(mirrors.values()) if isinstance(mirrors, dict) else mirrors
    for mirror in each if isinstance(each, list) else []:
        if isinstance(mirror, dict) and "active" in mirror:
            yield mirror["active"] == mirror.get("members", mirror["active"])


def _sealed(state: Json) -> str:
    return {"provisional": "provisional", "final": "sealed"}.get(_word(state), "")


def _word(value: Json) -> str:
    return cut(value, 80) if isinstance(value, str) else ""
