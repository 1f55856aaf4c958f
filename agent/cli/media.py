"""`bedplate media`: a boot medium for one host, without root and without building anything."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import click

from agent.adapters import command
from agent.cli.environment import catalog
from agent.cli.output import json_option, show_json
from agent.errors import MachineError, PlanError, Problem
from agent.find import PLAN_LIMIT
from agent.media.cargo import Cargo, check_options
from agent.media.personal import personalize
from agent.media.tools import Tools
from agent.plan.parse import parse

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEEDED = {
    "xorriso": "xorriso",
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "sfdisk": "fdisk",
}


@click.command("media")
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--plan", type=_FILE, help="The plan; checked before it is put on the medium.")
@click.option(
    "--plan-sig", "signature", type=_FILE, help="Its signature; by default PLAN.sig if it is there."
)
@click.option(
    "--ca", "authorities", type=_FILE, multiple=True, help="Authorities (PEM) to trust for https."
)
@click.option(
    "--key", "image_keys", type=_FILE, multiple=True, help="Public key that may sign images."
)
@click.option(
    "--plan-key", "plan_keys", type=_FILE, multiple=True, help="Public key that may sign plans."
)
@click.option(
    "--image",
    "images",
    type=_FILE,
    multiple=True,
    metavar="NAME.json",
    help="An image to carry, with its signature and payload: the plan names it as "
    "file:///run/bedplate/media/images/NAME.json.",
)
@click.option("--cmdline", "options", default="", help="Further kernel options.")
@json_option
def media(
    source: Path,
    target: Path,
    options: str,
    plan: Path | None,
    signature: Path | None,
    *,
    as_json: bool,
    **lists: tuple[Path, ...],
) -> None:
    """Make OUT, a boot medium for one host, from IN: bedplate.iso or bedplate.raw.

    The live image stays as it is, bit by bit; what is given here is added and found when it boots.
    Takes a second and needs neither root nor a network. A raw image grows to what it carries.
    """
    began = time.monotonic()
    if target.exists() and target.samefile(source):
        raise click.UsageError(f"{target}: IN and OUT are the same file")
    if signature is not None and plan is None:
        raise click.UsageError("--plan-sig without --plan")
    _programs()
    if plan is not None:
        with plan.open("rb") as file:
            parse(file.read(PLAN_LIMIT + 1), catalog())
        beside = plan.with_name(f"{plan.name}.sig")
        signature = signature or (beside if beside.exists() else None)
    check_options(options)
    files = Cargo(plan, signature, **lists).files()
    if not files and not options:
        raise click.UsageError("nothing to add: give --plan, --ca, --image, --cmdline ...")
    try:
        personalize(source, target, files, options, Tools(command.run))
    except OSError as error:
        reason = f"cannot be written: {(error.strerror or str(error)).lower()}"
        raise PlanError([Problem(str(target), reason)]) from error
    size, seconds = target.stat().st_size, time.monotonic() - began
    if as_json:
        show_json({"medium": str(target), "size": size, "files": sorted(files), "options": options})
    else:
        added = ", ".join([*sorted(files), *([f"options {options}"] if options else [])])
        click.echo(f"{target}: {size / 1e6:.1f} MB in {seconds:.1f} s, with {added}")


def _programs() -> None:
    missing = sorted({package for name, package in _NEEDED.items() if not shutil.which(name)})
    if missing:
        message = f"is not installed: apt-get install {' '.join(missing)}"
        raise MachineError([Problem(", ".join(missing), message)])


media_commands: tuple[click.Command, ...] = (media,)
