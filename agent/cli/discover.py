"""The command of a machine that Foreman does not know yet."""

from __future__ import annotations

from pathlib import Path

import click

from agent import wiring
from agent.cli.output import show_json
from agent.errors import MachineError, Problem
from agent.find import CommandLine
from agent.foreman.address import (
    Server,
    configured,
    likely_card,
    named_facts,
    network_booted,
)
from agent.foreman.facts import facts

CMDLINE = Path("/proc/cmdline")


@click.command()
@click.option(
    "--foreman",
    "url",
    metavar="URL",
    help="Foreman or Satellite; by default what the kernel command line names.",
)
@click.option("--proxy", is_flag=True, help="URL is a smart proxy with templates and discovery.")
@click.option("--facts", "only_facts", is_flag=True, help="Show the facts and send nothing.")
def discover(url: str | None, *, proxy: bool, only_facts: bool) -> None:
    """Make this machine known to Foreman, wait for its plan there, and carry it out.

    The live image does the same by itself when it finds no plan and its kernel command line has
    bedplate.foreman=URL, proxy.url=URL or foreman.url=URL. Provisioning the host in Foreman is the
    order to erase the disks that the plan chooses; there is no second boot in between.
    """
    line = CommandLine.parse(CMDLINE.read_text())
    if only_facts:
        _show_facts(line)
        return
    wiring.install(wiring.find_plan_in_foreman(_server(url, line, proxy=proxy)), lambda _: None)


def _server(url: str | None, line: CommandLine, *, proxy: bool) -> Server:
    if url is not None:
        line = CommandLine((f"bedplate.foreman={url}", f"proxy.type={_type(proxy)}"))
    elif proxy:
        raise click.UsageError("--proxy says what --foreman URL is: give both")
    server = configured(line)
    if server is None:
        raise click.UsageError("give --foreman URL: the kernel command line names no Foreman")
    return server


def _type(proxy: bool) -> str:
    return "proxy" if proxy else "foreman"


def _show_facts(line: CommandLine) -> None:
    inventory = wiring.read_inventory()
    mac = network_booted(line) or likely_card(inventory)
    if mac is None:
        raise MachineError([Problem("network", "this machine has no network card")])
    show_json(facts(inventory, mac, named_facts(line)))
