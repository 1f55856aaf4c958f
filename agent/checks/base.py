"""What a check is: one reason to refuse, looked for before the first write.

Checks are apart from steps because they must all run and report together, also when the plan does
not resolve to a layout and there are no steps yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from agent.errors import Problem
from agent.machine import Machine


class Check(Protocol):
    """Reads only. Raises nothing it can foresee: what is wrong comes out as problems."""

    def describe(self) -> str:
        """Say in one line what is looked at: `Tang http://10.0.0.7:7500 answers …`."""

    def problems(self, machine: Machine) -> Iterator[Problem]: ...
