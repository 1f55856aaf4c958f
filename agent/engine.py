"""Carry out what was decided: look at every check, then apply each step, and tell of both.

The engine chooses nothing and knows no step by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from agent.checks.base import Check
from agent.errors import Problem, StepError
from agent.machine import Machine, Progress
from agent.report.reporter import Reporter
from agent.steps.base import Json, Measured, Step

log = logging.getLogger(__name__)


def examine(checks: Sequence[Check], machine: Machine, progress: Progress) -> list[Problem]:
    """Run every check and return all problems, in the order of the checks.

    A check that cannot be made is a problem too: an unknown is no reason to start erasing.
    """
    problems: list[Problem] = []
    for number, check in enumerate(checks, start=1):
        log.info("check: %s", check.describe())
        problems += _problems(check, machine)
        progress(number, len(checks))
    return problems


def _problems(check: Check, machine: Machine) -> Iterator[Problem]:
    try:
        yield from check.problems(machine)
    except StepError as error:
        yield Problem(check.describe(), f"cannot be checked: {error}")


def carry_out(
    steps: Sequence[Step], machine: Machine, reporter: Reporter
) -> dict[str, dict[str, Json]]:
    """Apply the steps in order and return the evidence of each by its name.

    On any failure the disks are let go of and the error is raised again.

    A step's exception is reported by the reporter's context manager before it leaves this function.
    """
    shown: dict[str, dict[str, Json]] = {}
    try:
        for step in steps:
            unit = step.unit if isinstance(step, Measured) else ""
            with reporter.step(step.name, step.describe(), unit) as doing:
                evidence = dict(step.apply(machine, doing.progress))
                doing.evidence = evidence
                shown[step.name] = evidence
    except BaseException:
        let_go(machine)
        raise
    return shown


def let_go(machine: Machine) -> None:
    """Unmount and close everything, so that a look at the disks or a second try is possible.

    What fails here is logged and no more: the reason to let go is what the operator must hear.
    """
    for ending in (machine.kernel.resume_resync, machine.storage.release):
        try:
            ending()
        except Exception:
            log.warning("the disks could not be let go of", exc_info=True)
