"""Where the plan comes from: first hit wins, and what was tried is told.

The order is design §2.1's: kernel command line, systemd credential, a read-only medium labelled
BEDPLATE. Pure: reading is done by the sources that `wiring` passes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from urllib.parse import quote, urlencode

from agent.errors import MachineError, Problem
from agent.inventory.model import Inventory
from agent.network.words import split
from agent.proxy import Proxies, Proxy

PLAN_LIMIT = 1024 * 1024
"""Bytes; a larger plan is refused unread."""


@dataclass(frozen=True)
class Found:
    """A plan's exact bytes and where they came from, for the log and the report.

    `url` is None where it came from the machine itself: a file, a credential, a medium. `signature`
    lay beside it. `challenge` is what was asked for freshness and `answer` what came back,
    `server_time` the server's own clock.
    """

    where: str
    content: bytes
    signature: bytes | None = None
    url: str | None = None
    challenge: str = field(default="", compare=False)
    answer: bytes | None = None
    server_time: datetime | None = field(default=None, compare=False)


class PlanSource(Protocol):
    """One place a plan may come from."""

    def describe(self) -> str: ...

    def read(self) -> Found | None:
        """Return the plan, or None when this place holds none.

        Raises `MachineError` when the place was named but cannot be read: a plan that was asked
        for and is missing must never be replaced by another one.
        """


def find_plan(sources: Iterable[PlanSource]) -> Found:
    """Return the first plan found, or raise with every place that was looked at."""
    looked = []
    for source in sources:
        found = source.read()
        if found is not None:
            return found
        looked.append(source.describe())
    raise MachineError(
        [
            Problem(
                "plan",
                "none found; looked at " + "; ".join(looked or ["nothing"]),
            )
        ]
    )


@dataclass(frozen=True)
class CommandLine:
    """The kernel command line, as words; `bedplate.*` options are ours."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> CommandLine:
        """Split as the kernel does: white space separates, double quotes keep it together."""
        return cls(split(text))

    def value(self, name: str) -> str | None:
        """Return the last value of `name=`, as the kernel's own parsers do."""
        prefix = f"{name}="
        values = [word[len(prefix) :] for word in self.words if word.startswith(prefix)]
        return values[-1] if values else None

    def has(self, name: str) -> bool:
        return name in self.words or self.value(name) is not None


def plan_url(command_line: CommandLine, inventory: Inventory) -> str | None:
    """Return the URL the command line names, with this machine's names filled in.

    `bedplate.plan=URL` may hold {mac}, {serial} and {uuid}; `bedplate.server=URL` is short for the
    deploy server's `/v1/plan` asked with every name this machine has.
    """
    url = command_line.value("bedplate.plan")
    if url is not None:
        return _filled(url, inventory, command_line)
    server = command_line.value("bedplate.server")
    if server is None:
        return None
    names = [("mac", mac) for mac in _macs(inventory, command_line)]
    if inventory.dmi.serial:
        names.append(("serial", inventory.dmi.serial))
    if inventory.dmi.uuid:
        names.append(("uuid", str(inventory.dmi.uuid)))
    return f"{server.rstrip('/')}/v1/plan?{urlencode(names, quote_via=quote)}"


def booted_with(command_line: CommandLine) -> Proxies:
    """Return the proxy for plans, images and events, `bedplate.proxy=URL`, and what goes past it.

    Those are `bedplate.no_proxy=HOST,HOST…`. Raises `MachineError` without quoting the URL.
    """
    url, direct = command_line.value("bedplate.proxy"), command_line.value("bedplate.no_proxy")
    try:
        proxy = Proxy.parse(url) if url else None
    except ValueError as error:
        raise MachineError([Problem("kernel command line", f"bedplate.proxy= {error}")]) from None
    return Proxies.through(proxy, [word for word in (direct or "").split(",") if word])


def boot_mac(command_line: CommandLine) -> str | None:
    """Return the MAC the machine was network-booted with: `BOOTIF=01-aa-bb-…` (PXELINUX)."""
    value = command_line.value("BOOTIF")
    if value is None:
        return None
    parts = value.lower().replace("-", ":").split(":")
    return ":".join(parts[-6:]) if len(parts) >= 6 else None


def _macs(inventory: Inventory, command_line: CommandLine) -> Sequence[str]:
    """Return every MAC, the one that was booted from first."""
    first = boot_mac(command_line)
    macs = [nic.mac for nic in inventory.nics]
    return sorted(macs, key=lambda mac: mac != first)


def _filled(url: str, inventory: Inventory, command_line: CommandLine) -> str:
    macs = _macs(inventory, command_line)
    names = {
        "{mac}": macs[0] if macs else "",
        "{serial}": inventory.dmi.serial or "",
        "{uuid}": str(inventory.dmi.uuid or ""),
    }
    for name, value in names.items():
        url = url.replace(name, quote(value, safe=":"))
    return url
