"""The commands of a machine: look, check, preview, install."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TextIO

import click

from agent import wiring
from agent.adapters.plan_sources import signature_of
from agent.checks.foreseen import foreseen
from agent.checks.machine import mismatches
from agent.cli.approve import approval
from agent.cli.ask import manifest_of, overlays_of
from agent.cli.environment import site_option
from agent.cli.fleet import preview_fleet
from agent.cli.output import json_option, show_json
from agent.cli.recorded import read_recorded
from agent.cli.show import show_inventory, show_order, show_preview
from agent.errors import MachineError
from agent.find import PLAN_LIMIT, Found
from agent.layout.drawing import drawing
from agent.layout.model import Layout
from agent.layout.whole import Whole
from agent.plan.catalog import Catalog
from agent.plan.parse import parse
from agent.preview import preview as make_preview
from agent.resolve import lay_out

UNASKED = "nobody was asked (--offline)"
plan_argument = click.argument("plan", type=click.File("rb"))


@click.command()
@json_option
def inventory(*, as_json: bool) -> None:
    """Show what this machine has: disks and what lies on them, NICs, TPM, firmware.

    Reads only. With --json the output is what `preview --inventory` takes.
    """
    found = wiring.read_inventory()
    if as_json:
        show_json(found.model_dump(mode="json"))
    else:
        show_inventory(found)


@click.command()
@click.argument("plan", type=click.File("rb"), required=False)
@click.option(
    "--inventory",
    "recorded",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Use a recorded machine (bedplate inventory --json, or facts of Foreman) instead of this.",
)
@click.option(
    "--svg",
    type=click.File("w", encoding="utf-8"),
    help="Draw the layout to scale into this file as well; - for stdout.",
)
@click.option(
    "--fleet",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="PLANS",
    help="Preview every plan of this directory, each on its own machine of --inventories.",
)
@click.option(
    "--inventories",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="MACHINES",
    help="Directory of recorded machines, for --fleet: of bedplate inventory --json, or the facts "
    "of Foreman or Facter.",
)
@click.option(
    "--offline",
    is_flag=True,
    envvar="BEDPLATE_OFFLINE",
    help="Do not ask for the image's manifest; how much there is to fetch stays open.",
)
@site_option
@json_option
def preview(
    plan: BinaryIO | None,
    recorded: Path | None,
    svg: TextIO | None,
    fleet: Path | None,
    inventories: Path | None,
    *,
    site: Path,
    offline: bool,
    as_json: bool,
) -> None:
    """Show what PLAN would do to the disks of this machine, to the last byte; writes nothing.

    Needs neither root nor a network. Where the image's manifest answers, it says how much there is
    to fetch; its payload, Tang and the TPM are looked at by `check`. The exit status is 4 if the
    plan cannot be carried out, as far as that can be told from here. With --fleet, plans that come
    out alike are shown once, and one of them that cannot be carried out is enough for a 4.
    """
    presets = Catalog(site)
    if fleet is not None and inventories is not None and plan is None:
        preview_fleet(fleet, inventories, presets, as_json=as_json)
        return
    if plan is None or fleet is not None or inventories is not None:
        raise click.UsageError("give a PLAN, or --fleet PLANS together with --inventories MACHINES")
    wanted = parse(plan.read(PLAN_LIMIT + 1), presets)
    machine = wiring.read_inventory() if recorded is None else read_recorded(recorded)
    layout = lay_out(wanted, machine)
    if isinstance(layout, list):
        raise MachineError(layout)
    refused = tuple(foreseen(wanted, machine, datetime.now(UTC)))
    for problem in mismatches(wanted.machine, machine):
        click.echo(f"bedplate: warning: {problem}", err=True)
    if svg is not None and isinstance(layout, Whole):
        raise click.UsageError("--svg: a whole-disk image has a layout of its own, not drawn here")
    if svg is not None and isinstance(layout, Layout):
        svg.write(drawing(layout, wanted.hostname))
    if svg is None or svg.name != "-":
        image = UNASKED if offline else manifest_of(wanted)
        over = (UNASKED,) * len(wanted.overlays) if offline else overlays_of(wanted)
        shown = make_preview(wanted, machine, layout, image, refused=refused, overlays=over)
        show_preview(shown, as_json=as_json)
    if refused and as_json:
        raise SystemExit(MachineError.exit_status)  # the problems are in the document
    if refused:
        raise MachineError(refused)


@click.command()
@plan_argument
@json_option
def check(plan: BinaryIO, *, as_json: bool) -> None:
    """Look at everything that could make PLAN fail on this machine; writes nothing.

    All problems are shown together: the plan, the disks, the image's signature and size, Tang, the
    TPM, the escrow certificates, the report server.
    """
    order = wiring.decide(_found(plan))
    show_order(order, as_json=as_json)


@click.command()
@plan_argument
@click.option(
    "--erase",
    "erase",
    multiple=True,
    metavar="DISK",
    help="Serial, WWN or path of a disk that may be erased; once for each disk.",
)
def install(plan: BinaryIO, erase: tuple[str, ...]) -> None:
    """Carry out PLAN on this machine: ERASES the disks it chooses.

    Each disk must be named with --erase, or its serial typed when asked. Everything is checked
    before the first write; afterwards the machine reboots, unless the plan says otherwise.
    """
    found = _found(plan)
    wiring.install(lambda *_: found, approval(erase))


def _found(plan: BinaryIO) -> Found:
    """Return the plan in a file, with the signature beside it if there is one."""
    content = plan.read(PLAN_LIMIT + 1)
    signature = None if plan.name == "<stdin>" else signature_of(Path(plan.name))
    return Found(plan.name, content, signature)


@click.command()
def autoinstall() -> None:
    """Find this machine's plan and carry it out; what the live image runs by itself.

    The plan comes from the kernel command line (bedplate.plan=URL or bedplate.server=URL), the
    systemd credential bedplate.plan, plan.yaml on a medium labelled BEDPLATE, or the Foreman that
    bedplate.foreman=URL (or proxy.url=, foreman.url=) names: first hit wins. Booting the live image
    with one of these is the order to erase the disks that the plan chooses.
    """
    wiring.install(wiring.find_plan_here, lambda _: None)


machine_commands: tuple[click.Command, ...] = (inventory, preview, check, install, autoinstall)
