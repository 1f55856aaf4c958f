"""`bedplate serve`: the reference deploy server."""

from __future__ import annotations

from pathlib import Path

import click

from agent.errors import MachineError, Problem
from agent.payload.sign import load_signing_key


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--listen",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where to listen; port 0 takes a free one and prints it.",
)
@click.option(
    "--plan-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Private key that signs plans which have no signature of their own, and shows machines "
    "that a plan is not a recording. Its public half belongs into the live image.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate chain (PEM): serve https.",
)
@click.option(
    "--tls-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Private key of --tls-cert (PEM).",
)
def serve(
    directory: Path,
    listen: str,
    plan_key: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Serve plans, images and a place for events from DIRECTORY.

    DIRECTORY holds plans/ (YAML, found by MAC, serial or UUID) and images/ (made by `bedplate
    pack`); events/ and escrow/ are written there. Boot machines with
    bedplate.server=http://ADDRESS:PORT on the kernel command line. Over plain http machines take
    signed plans only: `bedplate plan sign`, or --plan-key.
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    signer = load_signing_key(plan_key) if plan_key is not None else None
    # Late, because the live image has no web server.
    try:
        from agent.server import Tls
        from agent.server import serve as serve_directory
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        message = f'needs {missing}: install it with pip install "bedplate[server]"'
        raise MachineError([Problem("bedplate serve", message)]) from error

    tls = Tls(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
    serve_directory(directory, listen, tls=tls, signer=signer)


server_commands: tuple[click.Command, ...] = (serve,)
