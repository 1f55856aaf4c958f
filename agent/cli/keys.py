"""`bedplate keys`: an operator's own keys for Secure Boot."""

from __future__ import annotations

from pathlib import Path

import click

from agent.adapters.secure_boot import SecureBoot
from agent.cli.output import json_option, make_directory, show_json
from agent.errors import PlanError, Problem
from agent.media import ownkeys
from agent.media.enrolment import VARIABLES, Variable

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group("keys")
def keys_group() -> None:
    """Own a machine's Secure Boot: make keys, enrol them.

    With build/keys/secureboot/ made, `make image` signs the live image. docs/boot.md has the whole
    way, and what to think of first.
    """


@keys_group.command("make")
@click.option(
    "-d",
    "--directory",
    type=_DIRECTORY,
    default=Path("build/keys/secureboot"),
    show_default=True,
    help="Where to put them.",
)
@click.option("--name", default="Bedplate", show_default=True, help="Whose the certificates are.")
@click.option(
    "--also",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Certificate to put into db beside the own one, as Microsoft's for option ROMs.",
)
@json_option
def make_command(directory: Path, name: str, also: tuple[Path, ...], *, as_json: bool) -> None:
    """Make PK, KEK and db: each a key, a certificate and an enrolment file (.auth).

    PK.key and KEK.key belong in a safe, db.key stays where images are built.
    """
    make_directory(directory)
    made = ownkeys.make(directory, name, also)
    if as_json:
        show_json({"files": [str(path) for path in made]})
        return
    for path in made:
        click.echo(f"{path}{'  private, keep it' if path.suffix == '.key' else ''}")


@keys_group.command("enroll")
@click.option(
    "-d",
    "--directory",
    type=_DIRECTORY,
    default=Path(),
    help="Where PK.auth, KEK.auth and db.auth are; by default here.",
)
def enroll_command(directory: Path) -> None:
    """Write the keys into this machine's firmware, which must be in setup mode; needs root.

    From then on it starts only what db's keys have signed. The live image has this command too.
    """
    updates: dict[Variable, bytes] = {}
    for name in VARIABLES:
        path = directory / f"{name}.auth"
        try:
            updates[name] = path.read_bytes()
        except OSError as error:
            reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
            raise PlanError([Problem(str(path), reason)]) from error
    SecureBoot().enroll(updates)
    click.echo("enrolled: db, KEK, PK; Secure Boot is on from the next start")


@keys_group.command("status")
@json_option
def status_command(*, as_json: bool) -> None:
    """Tell what this machine's firmware does with signatures: on, off, setup or unknown."""
    state = SecureBoot().state()
    if as_json:
        show_json({"secure_boot": state})
    else:
        click.echo(state)


keys_commands: tuple[click.Command, ...] = (keys_group,)
