"""Carry out what was decided: look at every check, then apply each step, and tell of both.

The engine chooses nothing and knows no step by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from agent.checks.base import Check
from agent.errors import Problem
from agent.machine import Machine, Progress
from agent.steps.base import Evidence, Step

log = logging.getLogger(__name__)


class Doing(Protocol):
    """A step under way, as the reporter sees it."""

    def evidence(self, evidence: Evidence) -> None: ...


class Reporter(Protocol):
    """Where the engine tells what happens; `agent.report.reporter` is the real one."""

    def step(self, name: str, title: str) -> AbstractContextManager[Doing]: ...
    def progress(self, done: int, total: int) -> None: ...


def examine(checks: Sequence[Check], machine: Machine, progress: Progress) -> list[Problem]:
    """Run every check and return all problems, in the order of the checks.

    A check that itself breaks is a problem too: an unknown is no reason to start erasing.
    """
    problems: list[Problem] = []
    for number, check in enumerate(checks, start=1):
        log.info("check: %s", check.describe())
        problems += _problems(check, machine)
        progress(number, len(checks))
    return problems


def _problems(check: Check, machine: Machine) -> Iterator[Problem]:
    yield from check.problems(machine)


def carry_out(steps: Sequence[Step], machine: Machine, reporter: Reporter) -> None:
    """Apply the steps in order; on any failure let go of the disks and raise it again.

    A step's exception is reported by the reporter's context manager before it leaves this function.
    """
    try:
        for step in steps:
            with reporter.step(step.name, step.describe()) as doing:
                doing.evidence(step.apply(machine, reporter.progress))
    except BaseException:
        let_go(machine)
        raise


def let_go(machine: Machine) -> None:
    """Unmount and close everything, so that a look at the disks or a second try is possible."""
    machine.kernel.resume_resync()
    machine.storage.release()
