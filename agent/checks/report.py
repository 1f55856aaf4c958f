"""Would the report servers take what the run will tell them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Problem
from agent.machine import Machine


@dataclass(frozen=True)
class ReportsListen:
    """A sink that is down during the run stops nothing; one that never answered is a mistake.

    The recovery key's envelope must be acknowledged by one, so it is asked before anything is
    erased.
    """

    def describe(self) -> str:
        return "the report servers answer"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        yield from machine.reports.problems()
