"""What a sink is: anything that takes events, and what more a sink may be able to do."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from agent.report.event import Event


class Sink(Protocol):
    """Takes every event, in order. It must be quick: the reporter waits for it."""

    def __call__(self, event: Event, /) -> None: ...


@runtime_checkable
class Closes(Protocol):
    def close(self, timeout: float) -> None:
        """Send or show what is still waiting, for at most `timeout` seconds, and end."""


@runtime_checkable
class Ticks(Protocol):
    """A sink that wants to be called while nothing happens, to show that time passes."""

    def tick(self) -> float:
        """Redraw; return after how many seconds to be called again."""


@runtime_checkable
class EscrowSink(Protocol):
    """A sink that can say that it has kept an envelope."""

    @property
    def name(self) -> str: ...
    def deliver(self, event: Event, timeout: float) -> str:
        """Return the sha256 acknowledged, which is the envelope's, or raise `StepError`.

        Tries again for up to `timeout` seconds.
        """
