"""`bedplate serve`, the reference deploy server, and what its operators do beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from agent.errors import MachineError, PlanError, Problem
from agent.payload.sign import load_signing_key
from agent.secret import Secret

if TYPE_CHECKING:
    from agent.server.database import Database

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)


def _database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    url = click.option(
        "--database",
        metavar="URL",
        help="PostgreSQL instead of SQLite in DIRECTORY, for several servers: "
        "postgresql+psycopg://USER@HOST/NAME. The password is read from ~/.pgpass or PGPASSFILE.",
    )
    file = click.option("--database-file", type=_FILE, help="A file that holds the URL instead.")
    return url(file(command))


@click.command()
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--listen",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where to listen; port 0 takes a free one and prints it.",
)
@click.option(
    "--plan-key",
    type=_FILE,
    help="Private key that signs plans which have no signature of their own, and shows machines "
    "that a plan is not a recording. Its public half belongs into the live image.",
)
@click.option("--tls-cert", type=_FILE, help="Certificate chain (PEM): serve https.")
@click.option("--tls-key", type=_FILE, help="Private key of --tls-cert (PEM).")
@_database_options
@click.option("--operators", type=_FILE, help="Who may see the fleet: bedplate operator add.")
@click.option(
    "--open",
    "everybody",
    is_flag=True,
    help="Show the fleet to everybody who reaches the port. So it is on loopback anyway.",
)
@click.option(
    "--mint-tokens",
    is_flag=True,
    help="Put a token of its own into each plan as it is served, where the plan has none and is "
    "not signed in a file: a machine then writes only its own events.",
)
@click.option(
    "--require-token",
    is_flag=True,
    help="Give a plan only to who shows its token (bedplate token), and take no events without.",
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy whose X-Forwarded-For is believed. May be given several times.",
)
@click.option("--metrics", is_flag=True, help="Serve /metrics for Prometheus, to operators.")
@click.option(
    "--otlp",
    default="",
    metavar="URL",
    help="Send each installation as a trace: http://collector:4318/v1/traces.",
)
@click.option("--webhook", default="", metavar="URL", help="Post events as CloudEvents.")
@click.option("--webhook-secret", type=_FILE, help="File of the key that signs those posts.")
def serve(
    directory: Path,
    listen: str,
    plan_key: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    **more: Any,
) -> None:
    """Serve plans, images and a place for events from DIRECTORY.

    DIRECTORY holds plans/ (YAML, found by MAC, serial or UUID) and images/ (made by `bedplate
    pack`); events and escrow/ are written there. Boot machines with
    bedplate.server=http://ADDRESS:PORT on the kernel command line. Over plain http machines take
    signed plans only: `bedplate plan sign`, or --plan-key.
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    signer = load_signing_key(plan_key) if plan_key is not None else None
    url = _url(more.pop("database"), more.pop("database_file"))
    webhook_secret = more.pop("webhook_secret")
    _need_server()
    from agent.server import Options, Tls
    from agent.server import serve as serve_directory

    options = Options(
        database=url,
        webhook_secret=_secret(webhook_secret) if webhook_secret is not None else None,
        **more,
    )
    tls = Tls(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
    serve_directory(directory, listen, tls=tls, signer=signer, options=options)


@click.group()
def operator() -> None:
    """Keep the file of those who may see the fleet (bedplate serve --operators)."""


@operator.command("add")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("name")
@click.option("--password-file", type=_FILE, help="Read the password from a file, not a prompt.")
def operator_add(file: Path, name: str, password_file: Path | None) -> None:
    """Add an operator to FILE, or give one a new password. The file holds no passwords (scrypt)."""
    _need_server()
    from agent.server.operators import NAME, Operator, read, write

    if not NAME.fullmatch(name):
        raise PlanError([Problem(name, "must be at most 64 letters, digits, dots, dashes, _ or @")])
    if password_file is not None:
        password = _secret(password_file)
    else:
        password = Secret(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    known = read(file) if file.exists() else {}
    write(file, {**known, name: Operator.make(name, password)})


@operator.command("remove")
@click.argument("file", type=_FILE)
@click.argument("name")
def operator_remove(file: Path, name: str) -> None:
    """Remove an operator from FILE; his sessions end at once."""
    _need_server()
    from agent.server.operators import read, write

    known = read(file)
    if known.pop(name, None) is None:
        raise PlanError([Problem(str(file), f"has no operator {name}")])
    write(file, known)


@click.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("plan")
@click.option("--server", metavar="URL", help="Print the whole boot URL at this server.")
@_database_options
def token(
    directory: Path, plan: str, server: str | None, database: str | None, database_file: Path | None
) -> None:
    """Print the token that a machine fetches PLAN (an id, or a file's name) with.

    For `bedplate serve --require-token`. It is as good for the order's whole life, and for no other
    order; put it on the machine's own kernel command line as bedplate.plan=URL.
    """
    _need_server()
    from agent.server.options import Options
    from agent.server.plans import PlanStore
    from agent.server.site import open_database, tokens_of

    found = PlanStore(directory / "plans").find(plan)
    if found is None:
        raise PlanError([Problem(str(directory / "plans"), f"has no plan {plan}")])
    with closing(open_database(directory, _url(database, database_file))) as opened:
        made = tokens_of(opened, Options()).boot(found.id).text
    if server:
        click.echo(f"{server.rstrip('/')}/v1/plans/{found.id}?token={made}")
    else:
        click.echo(made)


@click.group()
def escrow() -> None:
    """Recovery keys that a server keeps in PostgreSQL."""


@escrow.command("export")
@click.argument("directory", type=_DIRECTORY)
@_database_options
def escrow_export(directory: Path, database: str | None, database_file: Path | None) -> None:
    """Write the envelopes of the database into DIRECTORY, for openssl. Nothing is removed."""
    url = _url(database, database_file)
    if url is None:
        raise click.UsageError("give --database or --database-file; SQLite servers keep files")
    _need_server()
    from agent.server.database import Database
    from agent.server.escrow import EscrowTable

    with closing(Database.at(url.text)) as opened:
        for path in EscrowTable(opened).export(directory):
            click.echo(str(path))


@click.group()
def events() -> None:
    """Events that a server has stored."""


@events.command("show")
@click.argument("directory", type=_DIRECTORY)
@click.argument("plan")
@_database_options
def events_show(
    directory: Path, plan: str, database: str | None, database_file: Path | None
) -> None:
    """Print the events of the plan with the id PLAN, one JSON object a line."""
    with closing(_opened(directory, database, database_file)) as opened:
        from agent.server.reading import pages

        found = pages(opened, plan)
        if found is None:
            raise PlanError([Problem(opened.name, f"has no events of plan {plan}")])
        for page in found:
            sys.stdout.buffer.write(page)


@events.command("remove")
@click.argument("directory", type=_DIRECTORY)
@click.argument("plan")
@_database_options
def events_remove(
    directory: Path, plan: str, database: str | None, database_file: Path | None
) -> None:
    """Remove the events of the plan with the id PLAN. Envelopes in escrow stay."""
    with closing(_opened(directory, database, database_file)) as opened:
        from agent.server.reading import remove

        if not remove(opened, plan):
            raise PlanError([Problem(opened.name, f"has no events of plan {plan}")])


def _opened(directory: Path, url: str | None, file: Path | None) -> Database:
    _need_server()
    from agent.server.site import open_database

    return open_database(directory, _url(url, file))


def _need_server() -> None:
    """Raise `MachineError` without the extra: the live image has no web server."""
    try:
        import agent.server  # noqa: F401
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        message = f'needs {missing}: install it with pip install "bedplate[server]"'
        raise MachineError([Problem("bedplate serve", message)]) from error


def _url(url: str | None, file: Path | None) -> Secret | None:
    if url is not None and file is not None:
        raise click.UsageError("--database and --database-file exclude each other")
    if url is not None and urlsplit(url).password is not None:
        raise click.UsageError(
            "--database: everybody on this machine sees a password there; use --database-file, "
            "~/.pgpass or PGPASSFILE"
        )
    if url is not None:
        return Secret(url)
    return _secret(file) if file is not None else None


def _secret(file: Path) -> Secret:
    try:
        content = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError([Problem(str(file), f"cannot be read: {error}")]) from error
    if not content:
        raise PlanError([Problem(str(file), "is empty")])
    return Secret(content)


server_commands: tuple[click.Command, ...] = (serve, operator, token, escrow, events)
