"""Read a machine that `bedplate inventory --json` recorded."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from agent.errors import PlanError, Problem
from agent.inventory.model import Inventory

FAULTS_SHOWN = 10


def read_recorded(path: Path) -> Inventory:
    """Return the inventory in a file; raise `PlanError` naming what in it is wrong."""
    try:
        return Inventory.model_validate_json(path.read_bytes())
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise PlanError([Problem(str(path), reason)]) from error
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise PlanError(
            [
                Problem(f"{path}: {'.'.join(map(str, fault['loc']))}".rstrip(": "), fault["msg"])
                for fault in faults[:FAULTS_SHOWN]
            ]
        ) from error
