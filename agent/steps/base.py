"""What a step is.

All steps are built before the first one runs, complete in their own fields: UUIDs, sizes, names and
keys are chosen by `resolve`, so nothing a step produces feeds another. What must be true for a step
to succeed is looked at before any of them runs, by `agent.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from agent.machine import Machine, Progress

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
Evidence = Mapping[str, Json]
"""What a step can show for itself; goes into its `finished` event and the install report."""


class Step(Protocol):
    """One action on the machine: a frozen dataclass in a file of its own."""

    @property
    def name(self) -> str:
        """The step's word in events: `partition-disks`."""

    def describe(self) -> str:
        """Say in one imperative line what apply() will do, with names and sizes."""

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        """Do it or raise `StepError`; call `progress(done, total)` where it takes long."""


@runtime_checkable
class Measured(Protocol):
    """A step whose progress counts something that has a name, such as `bytes`."""

    @property
    def unit(self) -> str: ...
