"""What the environment of a typed command says; the live image never asks it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agent.errors import PlanError, Problem
from agent.plan.catalog import SITE, Catalog
from agent.proxy import Proxies

PRESETS = "BEDPLATE_PRESETS"

site_option = click.option(
    "--site",
    type=click.Path(path_type=Path, file_okay=False),
    default=SITE,
    envvar=PRESETS,
    show_default=True,
    show_envvar=True,
    help="Folder of the site's own presets, NAME.yaml each.",
)


def catalog() -> Catalog:
    """Return the presets that plans may name here: those of a live image's site lie elsewhere."""
    return Catalog(Path(os.environ.get(PRESETS) or SITE))


def proxies() -> Proxies:
    """Return the proxies that the operator's environment names, by curl's rules.

    Raises `PlanError` naming the variable, without its value: that may hold a password.
    """
    try:
        return Proxies.of_environment(os.environ)
    except ValueError as error:
        raise PlanError([Problem("environment", str(error))]) from None
