"""`bedplate serve`: the reference deploy server."""

from __future__ import annotations

from pathlib import Path

import click

from agent.errors import MachineError, Problem


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--listen",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where to listen; port 0 takes a free one and prints it.",
)
def serve(directory: Path, listen: str) -> None:
    """Serve plans, images and a place for events from DIRECTORY.

    DIRECTORY holds plans/ (YAML, found by MAC, serial or UUID) and images/ (made by `bedplate
    pack`); events/ and escrow/ are written there. Boot machines with
    bedplate.server=http://ADDRESS:PORT on the kernel command line.
    """
    # Late, because the live image has no web server.
    try:
        from agent.server import serve as serve_directory
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        message = f'needs {missing}: install it with pip install "bedplate[server]"'
        raise MachineError([Problem("bedplate serve", message)]) from error

    serve_directory(directory, listen)


server_commands: tuple[click.Command, ...] = (serve,)
