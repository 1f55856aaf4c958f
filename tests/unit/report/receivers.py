"""What the tests of events share: a clock wound by hand, a reporter on it, an event."""

from __future__ import annotations

from agent.report.event import Event, State
from agent.report.reporter import Clock, Reporter


class HandClock:
    """Both clocks of a reporter; time passes only by `pass_`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> Clock:
        return Clock(wall=lambda: 1_700_000_000 + self.now, monotonic=lambda: self.now)


def reporter(*sinks: list[Event], hands: HandClock | None = None) -> Reporter:
    return Reporter(
        "plan-1",
        "52:54:00:12:34:56",
        [sink.append for sink in sinks],
        clock=(hands or HandClock()).clock(),
        run="run-1",
    )


def event(seq: int = 1, state: State = State.STARTED, **fields: object) -> Event:
    known: dict[str, object] = {
        "plan": "plan-1",
        "machine": "52:54:00:12:34:56",
        "run": "run-1",
        "seq": seq,
        "time": 1_700_000_000.0 + seq,
        "step": "encrypt",
        "state": state,
    }
    return Event(**(known | fields))  # type: ignore[arg-type]  # Event checks them itself
