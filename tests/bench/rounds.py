"""Interleaved rounds: every case once in each round, each round beginning with another case.

What other load there is hits all of them alike, and none always runs in the wake of the same other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from rich.console import Console

from tests.bench.process import Argv, Cost, FailedError, machine_cpu, measure
from tests.bench.rows import Figures

QUIET = 0.3
"""Cores that may be busy with other things when a case begins."""
PATIENCE = 5.0
"""Seconds that are waited for that; then it begins all the same."""

T = TypeVar("T")


def nothing() -> None:
    """Do nothing: the default of what a case does before and after."""


@dataclass(frozen=True)
class Case:
    """One program to measure. Neither `prepare` nor `check` are timed.

    `check` runs after the first round and raises `FailedError` when what was made is wrong.
    `missing` says why the case cannot be run at all.
    """

    name: str
    argv: Argv
    prepare: Callable[[], None] = nothing
    check: Callable[[], None] = nothing
    finish: Callable[[], None] = nothing
    environment: dict[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass
class Results:
    """What the cases of one race cost, by name, and why some have no cost."""

    race: str = ""
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def figures(self, name: str, of: Callable[[Cost], float]) -> Figures:
        if name in self.missing:
            return Figures((), self.missing[name])
        return Figures(tuple(of(cost) for cost in self.costs.get(name, [])), "was not run")

    def every(self) -> list[dict[str, Any]]:
        """Return every single run, for who wants to look closer."""
        return [
            {"race": self.race, "case": name, "round": number, **asdict(cost)}
            for name, costs in self.costs.items()
            for number, cost in enumerate(costs, 1)
        ]

    def said(self, name: str, key: str) -> list[float]:
        """Return a number out of the JSON that a case printed, for each round."""
        return [float(json.loads(cost.said)[key]) for cost in self.costs.get(name, [])]


def rotated(cases: Sequence[T], number: int) -> list[T]:
    """Return the cases as round `number`, counted from 0, takes them."""
    first = number % len(cases) if cases else 0
    return [*cases[first:], *cases[:first]]


def race(
    name: str,
    cases: Sequence[Case],
    rounds: int,
    console: Console,
    *,
    patience: float = PATIENCE,
) -> Results:
    """Run the cases side by side; one that fails is left out from then on, with its reason.

    `patience` is how many seconds each may wait for a quiet machine.
    """
    results = Results(name)
    for case in cases:
        if case.missing:
            results.missing[case.name] = case.missing
            console.print(f"{name}: {case.name}: not run: {case.missing}", highlight=False)
    for number in range(rounds):
        for case in rotated(cases, number):
            if case.name in results.missing:
                continue
            where = f"{name} {number + 1}/{rounds} {case.name}"
            try:
                with console.status(where):
                    cost = _once(case, patience, first=number == 0)
            except FailedError as error:
                results.missing[case.name] = str(error)
                results.costs.pop(case.name, None)
                console.print(f"{where}: FAILED: {error}", highlight=False)
                continue
            results.costs.setdefault(case.name, []).append(cost)
            console.print(
                f"{where}: {cost.wall:.2f} s, {cost.cpu:.2f} CPU s, {cost.rss / 1e6:.0f} MB",
                highlight=False,
            )
    return results


def _once(case: Case, patience: float, *, first: bool) -> Cost:
    case.prepare()
    try:
        _settle(patience)
        cost = measure(case.argv, environment=case.environment)
        if first:
            case.check()
    finally:
        case.finish()
    return cost


def _settle(patience: float) -> None:
    """Wait until the machine has little else to do."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        busy, began = machine_cpu(), time.monotonic()
        time.sleep(0.25)
        if (machine_cpu() - busy) / (time.monotonic() - began) < QUIET:
            return
