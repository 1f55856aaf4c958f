"""`bedplate image push`: an image into an OCI registry."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from agent.cli.bar import bar
from agent.cli.fetching import fetching
from agent.cli.output import json_option, show_json
from agent.errors import PlanError, Problem
from agent.oci.credentials import Credentials, Login
from agent.oci.push import Pushed, push, read_local
from agent.oci.registries import Registries
from agent.reference import Reference
from agent.secret import Secret

Progress = Callable[[int, int], None]
PASSWORD_LIMIT = 64 << 10
"""Bytes read from stdin: tokens that stand for a password may be long."""


@click.command("push")
@click.argument("reference", metavar="oci://REGISTRY/REPOSITORY:TAG")
@click.argument(
    "document",
    required=False,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="[NAME.json]",
)
@click.option(
    "-d",
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="Where the image lies, if there is only one; by default here.",
)
@click.option("--username", help="Account at the registry; its password is read from stdin.")
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Authorities (PEM) to trust for TLS instead of the system's.",
)
@json_option
def push_command(
    reference: str,
    document: Path | None,
    directory: Path,
    username: str | None,
    ca: Path | None,
    *,
    as_json: bool,
) -> None:
    """Put a packed image into an OCI registry; chunks that it has already are not sent.

    A plan then names it as image.manifest. Without --username the accounts of `podman login` or
    `docker login` are used. oci+http:// is plain HTTP.
    """
    place = _reference(reference)
    local = read_local(document or _only_image(directory))
    options = fetching(ca, Registries(_credentials(username, place), "pull,push"))
    began = time.monotonic()
    with bar(f"pushing {place!s}", quiet=as_json) as progress:
        pushed = push(local, place, options, progress)
    _show(pushed, time.monotonic() - began, as_json=as_json)


def _show(pushed: Pushed, seconds: float, *, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "reference": str(pushed.reference),
                "digest": pushed.digest,
                "chunks": pushed.chunks,
                "size": pushed.size,
                "sent": pushed.sent,
                "shared": pushed.shared,
                "seconds": round(seconds, 3),
            }
        )
        return
    share = pushed.shared / pushed.size if pushed.size else 1.0
    click.echo(
        f"{pushed.reference}@{pushed.digest}\n"
        f"{pushed.sent / 1e6:.1f} MB sent, {pushed.shared / 1e6:.1f} MB ({share:.0%}) in "
        f"{pushed.chunks} chunks were there already; {seconds:.1f} s"
    )


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise PlanError([Problem("reference", str(error))]) from None


def _only_image(directory: Path) -> Path:
    """Return the manifest of the one image that lies in a directory."""
    found = sorted(path.with_suffix("") for path in directory.glob("*.json.sig"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        message = f"holds {len(found)} images ({names}): name the one to push, NAME.json"
        raise PlanError([Problem(str(directory), message)])
    return found[0]


def _credentials(username: str | None, place: Reference) -> Credentials:
    if username is None:
        return Credentials.usual()
    if not username or ":" in username:  # RFC 7617: the first colon ends it
        raise PlanError([Problem("--username", "must be a name without a colon")])
    password = sys.stdin.buffer.read(PASSWORD_LIMIT + 1).removesuffix(b"\n")
    password = password.removesuffix(b"\r")
    if not password or len(password) > PASSWORD_LIMIT:
        raise PlanError([Problem("--username", "needs the password on stdin, one line")])
    return Credentials(given=Login(username, Secret(password)), only=place.registry)


push_commands: tuple[click.Command, ...] = (push_command,)
