"""`bedplate image gc`: remove the images that no plan names."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from agent.cli.environment import catalog
from agent.cli.output import json_option, show_json
from agent.errors import PlanError, Problem
from agent.payload.retention import Keep, Sweep, manifest_names, stored, sweep
from agent.plan.parse import parse

_AGE = re.compile(r"(\d+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _age(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Read a length of time, in seconds: 12h, 30d."""
    match = _AGE.fullmatch(value.strip())
    if match is None:
        message = f"{value!r} is no length of time: write 12h, 30d or 4w"
        raise click.BadParameter(message, context, parameter)
    return float(int(match[1]) * _SECONDS[match[2]])


@click.command(
    "gc",
    epilog="\b\nExample:\n"
    "  bedplate image gc images/ --keep-referenced plans/ --keep 'group-*' --remove",
)
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--keep-referenced",
    "plans",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="A plan, or a directory of plans: their images stay. May be given several times.",
)
@click.argument("more", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[PLANS]…")
@click.option("--keep", "patterns", multiple=True, help="Keep images of this name (shell pattern).")
@click.option(
    "--younger",
    callback=_age,
    default="1d",
    show_default=True,
    metavar="AGE",
    help="Keep what was written less than this ago: its plan may not be there yet.",
)
@click.option("--remove", is_flag=True, help="Remove them; without it they are only listed.")
@json_option
def gc(
    directory: Path,
    plans: tuple[Path, ...],
    more: tuple[Path, ...],
    patterns: tuple[str, ...],
    younger: float,
    *,
    remove: bool,
    as_json: bool,
) -> None:
    """Remove the images in DIRECTORY that no plan names.

    A plan keeps the image whose manifest has the file name that its address ends with. If one plan
    cannot be read nothing is removed, for it may name any image. Files that belong to no image are
    left alone.
    """
    named = _named((*plans, *more))
    found = sweep(stored(directory), Keep(named, patterns, time.time() - younger))
    if remove:
        for path in found.files:
            _remove(path)
    _show(found, removed=remove, as_json=as_json)


def _named(places: Sequence[Path]) -> dict[str, str]:
    """Return the file names of all manifests that plans name, each with one plan that does."""
    named: dict[str, str] = {}
    problems: list[Problem] = []
    count = 0
    for path in _files(places):
        count += 1
        try:
            plan = parse(path.read_bytes(), catalog())
        except PlanError as error:
            problems += [Problem(str(path), str(one)) for one in error.problems]
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))
        else:
            over = (url for overlay in plan.overlays for url in overlay.manifest)
            for name in manifest_names((*plan.image.manifest, *over)):
                named.setdefault(name, path.name)
    if not count:
        places_named = ", ".join(map(str, places))
        problems.append(Problem(places_named, "holds no plan (*.yaml): every image would go"))
    if problems:
        raise PlanError(problems)
    return named


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(p for p in place.rglob("*") if p.suffix in {".yaml", ".yml"})
        else:
            yield place


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise PlanError([Problem(str(path), f"cannot be removed: {error.strerror}")]) from None


def _show(found: Sweep, *, removed: bool, as_json: bool) -> None:
    freed = sum(image.size for image in found.goes)
    if as_json:
        show_json(
            {
                "stays": [{"image": str(image.document), "why": why} for image, why in found.stays],
                "goes": [
                    {"image": str(image.document), "bytes": image.size} for image in found.goes
                ],
                "files": [str(path) for path in found.files],
                "bytes": freed,
                "removed": removed,
            }
        )
        return
    for image, why in found.stays:
        click.echo(f"stays    {image.document}  {image.size / 1e6:.1f} MB  {why}")
    for image in found.goes:
        word = "removed" if removed else "can go"
        click.echo(f"{word:8} {image.document}  {image.size / 1e6:.1f} MB")
    count = len(found.goes) + len(found.stays)
    done = "removed" if removed else "can go"
    click.echo(f"{len(found.goes)} of {count} images {done}, {freed / 1e6:.1f} MB")
    if found.goes and not removed:
        click.echo("nothing was removed: say --remove", file=sys.stderr)


retention_commands: tuple[click.Command, ...] = (gc,)
