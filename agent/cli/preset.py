"""The commands for presets: list, show."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from agent.cli.environment import site_option
from agent.cli.output import json_option, show_json
from agent.errors import PlanError, Problem
from agent.plan.catalog import Catalog
from agent.plan.preset import Preset, load_preset
from agent.plan.preset_table import table

WIDTH = 100


@click.group()
def preset() -> None:
    """Show the presets: file systems and mount options, each with the rules that ask for it."""


@preset.command("list")
@site_option
@json_option
def list_presets(site: Path, *, as_json: bool) -> None:
    """Name every preset that a plan can start from."""
    catalog = Catalog(site)
    found = [load_preset(name, catalog) for name in catalog.names()]
    if as_json:
        show_json([{"name": p.name, "summary": p.summary, "benchmark": p.benchmark} for p in found])
        return
    width = max(len(one.name) for one in found)
    for one in found:
        click.echo(f"{one.name:<{width}}  {one.summary}")


@preset.command("show")
@click.argument("name")
@site_option
@json_option
def show_preset(name: str, site: Path, *, as_json: bool) -> None:
    """Print the preset NAME in full: what it extends is already in it."""
    try:
        found = load_preset(name, Catalog(site))
    except ValueError as error:
        raise PlanError([Problem("preset", str(error))]) from None
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    for line in picture(found):
        click.echo(line)


def picture(found: Preset) -> Iterator[str]:
    """Yield the lines of a preset as a table for people."""
    yield f"{found.name}: {found.summary}"
    if found.benchmark:
        yield f"rules: {found.benchmark}"
    if found.extends:
        yield f"extends: {', '.join(found.extends)}"
    if found.encryption:
        yield f"encryption: {', '.join(found.encryption)}"
    yield ""
    rows: list[tuple[str, str, tuple[str, ...]]] = [("MOUNT", "SIZE", ("OPTIONS AND RULES",))]
    rows += [(row.mount, row.size, _last(row.options, row.rules)) for row in table(found)]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    for mount, size, lines in rows:
        start = f"{mount:<{first}}  {size:<{second}}  "
        for line in lines:
            wrapped = textwrap.wrap(line, max(40, WIDTH - len(start)), subsequent_indent="  ")
            for part in wrapped or [""]:
                yield f"{start}{part}".rstrip()
                start = " " * len(start)
    for one in found.unmet:
        text = f"left open: {', '.join(one.rules)}: {one.why}"
        yield from textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def _last(options: tuple[str, ...], rules: tuple[str, ...]) -> tuple[str, ...]:
    return (",".join(options) or "-", *rules)


preset_commands: tuple[click.Command, ...] = (preset,)
