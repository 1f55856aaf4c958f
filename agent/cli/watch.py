"""`bedplate watch`: the fleet page in a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent.cli.output import json_option
from agent.secret import Secret
from agent.watch.wish import SORTS, STATES, Wish


@click.command(
    epilog="\b\nExample: bedplate watch https://deploy.example.com --state failed --state silent"
)
@click.argument("url")
@click.option("--plan", metavar="ID", help="One machine in full: a plan's id, or a machine's name.")
@click.option(
    "--filter", "text", default="", metavar="TEXT", help="Only rows with all of these words."
)
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Only these; repeatable."
)
@click.option("--sort", type=click.Choice(tuple(SORTS)), default="state", show_default=True)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--once", is_flag=True, help="Print it once; also where stdout is no terminal.")
@click.option("--user", metavar="NAME", help="Operator's name; the password is asked for.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Where the password stands instead, in the first line.",
)
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False),
    help="Certificate authorities (PEM) to trust instead of the system's.",
)
@json_option
def watch(
    url: str,
    plan: str | None,
    text: str,
    states: tuple[str, ...],
    *,
    sort: str,
    reverse: bool,
    once: bool,
    user: str | None,
    password_file: Path | None,
    ca: str | None,
    as_json: bool,
) -> None:
    """Watch the fleet of the server at URL: a row a machine, live.

    It connects again by itself when the server goes away, and says so. With --json every change
    is a line; with --once too, the whole fleet is one document. Ctrl-C ends it.
    """
    # Late: rich and requests take a while to import, and no other command here needs both.
    from agent.watch import show
    from agent.watch.feed import Site

    site = Site(url, login=_login(user, password_file), authorities=ca or "")
    wish = Wish(sort, reverse, tuple(text.split()), frozenset(states))
    try:
        if plan is not None:
            show.one(site, plan, once=once or not sys.stdout.isatty(), as_json=as_json)
        elif as_json:
            show.lines(site, wish, once=once)
        else:
            show.table(site, wish, once=once or not sys.stdout.isatty())
    except KeyboardInterrupt:
        click.echo()


def _login(user: str | None, file: Path | None) -> tuple[str, Secret] | None:
    if user is None:
        return None
    if file is None:
        return user, Secret(click.prompt("Password", hide_input=True, err=True))
    return user, Secret(file.read_text().partition("\n")[0])


watch_commands: tuple[click.Command, ...] = (watch,)
