"""The `bedplate` command: parse, wire, render; decide nothing.

Results go to stdout, events and logs to stderr. Every command that prints data takes `--json`.
"""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from typing import Any

import click

from agent import __version__
from agent.cli.discover import discover
from agent.cli.fleet import plan_commands
from agent.cli.image import image_commands
from agent.cli.images import images_commands
from agent.cli.keys import keys_commands
from agent.cli.machine import machine_commands
from agent.cli.media import media_commands
from agent.cli.preset import preset_commands
from agent.cli.redfish import redfish_commands
from agent.cli.server import server_commands
from agent.cli.watch import watch_commands
from agent.errors import AgentError, MachineError, PlanError

EPILOG = """\b
Exit status: 0 done, 2 wrong usage, 3 the plan is wrong, 4 this machine cannot carry it out,
5 a step failed. With 3 and 4 nothing was written to any disk.

\b
Tab completion: eval "$(_BEDPLATE_COMPLETE=bash_source bedplate)"   (or zsh_source, fish_source)
"""


class Bedplate(click.Group):
    """The one place where foreseen failures become a message and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentError as error:
            _show(error, as_json=bool(ctx.obj))
            ctx.exit(error.exit_status)


@click.group(cls=Bedplate, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="bedplate %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log every program that is run, to stderr.")
@click.pass_context
def main(ctx: click.Context, *, verbose: bool) -> None:
    """Put any OS image on any bare-metal machine: mirrored, encrypted, verified, traceable.

    A plan (YAML) says what a machine shall become. `check` and `preview` only read; `install`
    decides everything first and then writes.
    """
    del ctx
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.DEBUG if verbose else logging.WARNING)
    shown.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=shown.level, handlers=[shown])


def _show(error: AgentError, *, as_json: bool) -> None:
    if as_json:
        problems = error.problems if isinstance(error, (PlanError, MachineError)) else ()
        found = [{"where": p.where, "message": p.message} for p in problems]
        click.echo(
            json.dumps({"error": str(error), "problems": found, "status": error.exit_status})
        )
        return
    if isinstance(error, (PlanError, MachineError)) and len(error.problems) > 1:
        click.echo(f"{len(error.problems)} problems; nothing was touched:", err=True)
        for problem in error.problems:
            click.echo(textwrap.indent(str(problem), "  "), err=True)
        return
    click.echo(f"bedplate: {error}", err=True)


COMMANDS = (
    *machine_commands,
    discover,
    *plan_commands,
    *preset_commands,
    *image_commands,
    *images_commands,
    *server_commands,
    *media_commands,
    *keys_commands,
    *redfish_commands,
    *watch_commands,
)
for command in COMMANDS:
    main.add_command(command)
