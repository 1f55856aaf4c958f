"""Read machines: recorded by `bedplate inventory --json`, or as Foreman and Facter know them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.errors import PlanError, Problem
from agent.inventory.foreman import machines
from agent.inventory.model import Inventory

FAULTS_SHOWN = 10


def read_recorded(path: Path) -> Inventory:
    """Return the one machine in a file; raise `PlanError` naming what in it is wrong."""
    found = read_machines(path)
    if len(found) != 1:
        message = f"holds the facts of {len(found)} machines, one is looked at"
        raise PlanError([Problem(str(path), message)])
    return found[0]


def read_machines(path: Path) -> Sequence[Inventory]:
    """Return the machines in a file: one of ours, or as many as Foreman's answer has.

    Raises `PlanError` naming what is wrong.
    """
    try:
        content = path.read_bytes()
        found = _of_foreman(path, content)
        return found or [Inventory.model_validate_json(content)]
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise PlanError([Problem(str(path), reason)]) from error
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise PlanError([_problem(path, fault) for fault in faults[:FAULTS_SHOWN]]) from error


def _problem(path: Path, fault: ErrorDetails) -> Problem:
    place = ".".join(map(str, fault["loc"]))
    if not place:
        what = "is no machine: write one by bedplate inventory --json, or take Foreman's facts"
        return Problem(str(path), f"{what} ({fault['msg']})")
    said = "is missing" if fault["type"] == "missing" else fault["msg"].lower()
    return Problem(f"{path}: {place}", said)


def _of_foreman(path: Path, content: bytes) -> list[Inventory]:
    """Return the machines whose facts these are; none where they are no facts of Foreman's."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return []  # pydantic says it better
    try:
        return [machine for _, machine in machines(document)]
    except ValidationError:
        raise
    except ValueError as error:
        raise PlanError([Problem(str(path), str(error))]) from error
