"""`bedplate redfish`: install machines through their BMC, by virtual media."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from agent.cli.environment import catalog
from agent.cli.output import json_option, show_json
from agent.errors import MachineError, PlanError, Problem
from agent.plan.parse import parse
from agent.report.event import PLAN_ID
from agent.report.text import plain
from agent.secret import Secret

if TYPE_CHECKING:
    from agent.redfish.bmc import Bmc
    from agent.redfish.following import Server

PASSWORD_LIMIT = 4096
Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@dataclass(frozen=True)
class Access:
    """How the BMC is reached, as the operator said it."""

    bmc: str
    user: str
    password_file: str | None
    system: str | None
    ca: Path | None
    insecure: bool


def access_options(command: Command) -> Command:
    """Add the options that name a BMC and who asks."""
    for option in reversed(
        (
            click.option(
                "--bmc", required=True, metavar="URL", help="The BMC: https://HOST[:PORT]."
            ),
            click.option("--user", required=True, metavar="NAME", help="Account at the BMC."),
            click.option(
                "--password-file",
                metavar="FILE",
                help="First line is the password; - reads stdin. Asked for where neither is given.",
            ),
            click.option(
                "--system", metavar="ID", help="Which machine, where the BMC has several."
            ),
            click.option("--ca", type=FILE, help="Authorities (PEM) to trust for the BMC."),
            click.option(
                "--insecure", is_flag=True, help="Do not look at the BMC's certificate at all."
            ),
        )
    ):
        command = option(command)
    return command


@click.group("redfish")
def redfish_group() -> None:
    """Install machines through their BMC: virtual media, one-time boot, power."""


@redfish_group.command("install")
@access_options
@click.option("--iso", required=True, metavar="URL|FILE", help="The image, as the BMC fetches it.")
@click.option(
    "--serve", metavar="IP[:PORT]", help="Serve the FILE at this address of this machine."
)
@click.option("--server", metavar="URL", help="Deploy server to hear from how it goes.")
@click.option("--server-ca", type=FILE, help="Authorities (PEM) to trust for the deploy server.")
@click.option("--plan", metavar="ID|FILE", help="The plan that the machine will carry out.")
@click.option("--wait", is_flag=True, help="Follow until installed, take the image out, boot disk.")
@click.option("--stay-off", is_flag=True, help="Do not switch on what its plan switched off.")
@click.option("--callback-timeout", default=1200.0, show_default=True, metavar="SECONDS",
              help="How long the machine may be silent after its start.")  # fmt: skip
@click.option("--timeout", default=4 * 3600.0, show_default=True, metavar="SECONDS",
              help="How long everything may take.")  # fmt: skip
@click.option("--interval", default=5.0, show_default=True, metavar="SECONDS",
              help="Between two looks at BMC or server.")  # fmt: skip
def install_command(  # each is an option
    iso: str,
    serve: str | None,
    server: str | None,
    server_ca: Path | None,
    plan: str | None,
    callback_timeout: float,
    timeout: float,
    interval: float,
    *,
    wait: bool,
    stay_off: bool,
    **access: Any,
) -> None:
    """Boot a machine from an image by virtual media, and see it installed.

    Without --wait the image stays in and the command ends once the machine was started. With --wait
    and --server the machine's events are shown; with --wait alone the end is the machine switching
    itself off (finish: poweroff).
    """
    _possible(iso, serve, server, plan, wait=wait)
    login = Access(**access)
    with ExitStack() as stack:
        bmc = stack.enter_context(_session(login))
        from agent.redfish.installing import Order, Patience, install
        from agent.redfish.media import serving
        from agent.report.console import open_console

        served = stack.enter_context(serving(Path(iso), serve)) if serve else None
        order = Order(
            served.url if served else iso,
            wait,
            _server(server, plan, server_ca),
            served,
            stay_off,
        )
        patience = Patience(callback_timeout, timeout, interval)
        sink = open_console(sys.stderr, os.environ.get("TERM", "dumb"))
        stack.callback(sink.close, 5)
        outcome = install(bmc, order, patience, _say, sink)
    click.echo(outcome)


@redfish_group.command("status")
@access_options
@json_option
def status_command(*, as_json: bool, **access: Any) -> None:
    """Show a machine's power, its next boot and what is in its virtual CDs."""
    with _session(Access(**access)) as bmc:
        found = {
            "system": bmc.system,
            "power": "on" if bmc.is_on() else "off",
            "boot": bmc.next_boot(),
            "slots": [
                {"name": slot.name, "of": slot.where, "image": slot.image if slot.inserted else ""}
                for slot in bmc.slots()
            ],
        }
    if as_json:
        show_json(found)
        return
    click.echo(f"system  {plain(str(found['system']))}, power {found['power']}")
    click.echo(f"boot    {found['boot']}")
    for slot in found["slots"]:
        assert isinstance(slot, dict)
        where = f"{slot['name']} (of the {slot['of']})"
        click.echo(f"media   {plain(where)}: {plain(slot['image']) or 'empty'}")


@redfish_group.command("eject")
@access_options
def eject_command(**access: Any) -> None:
    """Take out what is in a machine's virtual CDs, and end a boot override to CD."""
    with _session(Access(**access)) as bmc:
        for image in bmc.eject() or ["nothing"]:
            click.echo(f"{plain(image)} was taken out" if image != "nothing" else "nothing was in")
        bmc.boot_from_disk()


@contextmanager
def _session(access: Access) -> Iterator[Bmc]:
    """Log in, with sushy loaded late: it is an extra, and takes half a second."""
    if access.ca is not None and access.insecure:
        raise click.UsageError("--ca and --insecure contradict each other")
    password = _password(access)
    try:
        from agent.redfish.bmc import Login, session
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        message = f'needs {missing}: install it with pip install "bedplate[redfish]"'
        raise MachineError([Problem("bedplate redfish", message)]) from error
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        # What it logs is what it raises, and that is shown.
        logging.getLogger("sushy").setLevel(logging.CRITICAL)
    verify = str(access.ca) if access.ca else not access.insecure
    with session(access.bmc, Login(access.user, password, verify), access.system) as bmc:
        yield bmc


def _password(access: Access) -> Secret:
    """Return the password from a file, stdin, or the terminal; never from argv or environment."""
    if access.password_file is None:
        if not sys.stdin.isatty():
            message = "is missing, and there is no terminal to ask at; - reads stdin"
            raise PlanError([Problem("--password-file", message)])
        return Secret(click.prompt(f"password of {access.user}", hide_input=True, err=True))
    try:
        if access.password_file == "-":  # noqa: S105
            text = sys.stdin.buffer.readline(PASSWORD_LIMIT)
        else:
            with Path(access.password_file).open("rb") as stream:
                text = stream.readline(PASSWORD_LIMIT)
        password = text.rstrip(b"\r\n").decode()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not UTF-8"
        raise PlanError([Problem(f"--password-file {access.password_file}", why.lower())]) from None
    if not password:
        raise PlanError([Problem("--password-file", "holds no password in its first line")])
    return Secret(password)


def _possible(
    iso: str, serve: str | None, server: str | None, plan: str | None, *, wait: bool
) -> None:
    """Refuse options that contradict each other, before anybody is asked for a password."""
    is_url = urlsplit(iso).scheme in ("http", "https", "nfs", "cifs", "smb")
    if not is_url and serve is None:
        raise click.UsageError(
            f"--iso {iso} is a file: give --serve with an address of this machine that the BMC"
            " reaches, or a URL"
        )
    if serve is not None and (is_url or not wait):
        raise click.UsageError(
            "--serve is for an --iso that is a file"
            if is_url
            else "--serve needs --wait: the BMC reads the image as long as the machine boots"
        )
    if (server is None) != (plan is None):
        raise click.UsageError("--server and --plan belong together")
    if server is not None and not wait:
        raise click.UsageError("--server needs --wait")


def _server(url: str | None, plan: str | None, ca: Path | None) -> Server | None:
    if url is None or plan is None:
        return None
    from agent.redfish.following import Server

    if Path(plan).is_file():
        plan = str(parse(Path(plan).read_bytes(), catalog()).id)
    elif not PLAN_ID.fullmatch(plan):
        raise PlanError([Problem("--plan", f"is neither a file nor a plan's id: {plan!r:.80}")])
    return Server(url, plan, ca, catalog=catalog())


def _say(text: str) -> None:
    click.echo(plain(text, limit=500), err=True)


redfish_commands: tuple[click.Command, ...] = (redfish_group,)
