"""The report servers, asked before anything is erased whether they would listen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.errors import Problem


class Reachable(Protocol):
    """A sink that can be asked, and is changed by nothing of that."""

    def reachable(self, plan: str = "", *, escrow: bool = False) -> str | None:
        """Return why it could not be told of this plan, or None."""


@dataclass(frozen=True)
class ReportServers:
    """The sinks of one plan, by their number in it."""

    sinks: Mapping[int, Reachable]
    plan: str
    escrow: bool
    """Whether each that keeps envelopes at all must say so."""

    def problems(self) -> Iterator[Problem]:
        for number, sink in self.sinks.items():
            reason = sink.reachable(self.plan, escrow=self.escrow)
            if reason is not None:
                yield Problem(f"report[{number}]", reason)
