"""What the commands share: `--json`, how data is printed, where files go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.errors import PlanError, Problem

Command = TypeVar("Command", bound=Callable[..., Any])


def _remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """Let the group know too: a failure is then shown as JSON as well."""
    del parameter
    ctx.find_root().obj = value
    return value


def json_option(command: Command) -> Command:
    """Add `--json` to a command that prints data."""
    option = click.option(
        "--json", "as_json", is_flag=True, callback=_remember, help="Print the result as JSON."
    )
    return option(command)


def make_directory(directory: Path) -> None:
    """Make sure of the directory that results go to; raise `PlanError` where it cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made: {(error.strerror or str(error)).lower()}"
        raise PlanError([Problem(str(directory), reason)]) from error


def show_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))
