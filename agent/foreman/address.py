"""Which Foreman the kernel command line names, and the addresses that are asked there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from agent.errors import MachineError, Problem
from agent.find import CommandLine, boot_mac
from agent.inventory.model import Inventory

_NAMES = (("bedplate.foreman", False), ("proxy.url", True), ("foreman.url", False))
"""Options that name the server, and whether it is a smart proxy where `proxy.type=` is silent.

All but the first are those of Foreman's own discovery image, so its boot entries work unchanged.
"""
_PORTS = {"http": 80, "https": 443}
PLAN_PATH = "/unattended/provision"


@dataclass(frozen=True)
class Server:
    """Foreman itself, or a smart proxy (with templates and discovery) in front of it."""

    base: str
    """`https://foreman.example.com`, without a slash at its end."""
    proxy: bool = False

    @property
    def facts_url(self) -> str:
        """Where facts of an unknown host go."""
        path = "/discovery/create" if self.proxy else "/api/v2/discovered_hosts/facts"
        return self.base + path

    def plan_url(self, mac: str) -> str:
        """Return where the plan of a host that Foreman knows by this MAC is."""
        return f"{self.base}{PLAN_PATH}?{urlencode([('mac', mac)], quote_via=quote, safe=':')}"

    def owns(self, url: str) -> bool:
        """Tell whether a URL is on this very server: same scheme, host and port, no user."""
        try:
            ours, theirs = _origin(self.base), _origin(url)
        except ValueError:
            return False
        return ours == theirs and "@" not in urlsplit(url).netloc


def configured(line: CommandLine) -> Server | None:
    """Return the server that the command line names; None if it names none.

    Raises `MachineError` for one that is no http or https URL.
    """
    for name, proxy in _NAMES:
        value = line.value(name)
        if value is not None:
            return Server(_base(name, value), _is_proxy(line, proxy))
    return None


def is_unattended(url: str) -> bool:
    """Tell whether a plan's URL is one of Foreman's, whose query is a secret."""
    return urlsplit(url).path.endswith(PLAN_PATH)


def shown(url: str) -> str:
    """Return a URL without its query and user, which may be secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def failed_beside(plan_url: str) -> str:
    """Return where a failure is told about a host whose plan is at `plan_url`.

    For a plan that does not get as far as naming the place itself.
    """
    parts = urlsplit(plan_url)
    path = parts.path.removesuffix("provision") + "failed"
    return urlunsplit(parts._replace(path=path))


def network_booted(line: CommandLine) -> str | None:
    """Return the MAC of the card the machine was booted from, None where nobody says which."""
    named = boot_mac(line) or line.value("fdi.pxmac")
    return named.lower().replace("-", ":") if named else None


def likely_card(inventory: Inventory) -> str | None:
    """Return the MAC of the card Foreman is most likely behind: with an address, with a cable."""
    cards = sorted(inventory.nics, key=lambda nic: (not nic.addresses, not nic.carrier))
    return cards[0].mac if cards else None


def who_we_are(inventory: Inventory, mac: str) -> dict[str, str]:
    """Return the headers that name every card, the booted one first, as Anaconda sends them.

    Foreman reads them only if number 0 is there, and takes the second word of each.
    """
    cards = sorted(inventory.nics, key=lambda nic: nic.mac != mac)
    return {
        f"X-RHN-Provisioning-MAC-{number}": f"{nic.name} {nic.mac}"
        for number, nic in enumerate(cards)
    }


def named_facts(line: CommandLine) -> dict[str, str]:
    """Return what `fdi.pxfactname1=` and `fdi.pxfactvalue1=` add to the facts, up to 99."""
    pairs: Sequence[tuple[str | None, str | None]] = [
        (line.value(f"fdi.pxfactname{number}"), line.value(f"fdi.pxfactvalue{number}"))
        for number in range(1, 100)
    ]
    return {name: value for name, value in pairs if name and value is not None}


def _is_proxy(line: CommandLine, otherwise: bool) -> bool:
    kind = line.value("proxy.type")
    if kind not in (None, "proxy", "foreman"):
        raise _wrong("proxy.type", f'"{kind}" is neither foreman nor proxy')
    return otherwise if kind is None else kind == "proxy"


def _base(name: str, value: str) -> str:
    try:
        _origin(value)
        parts = urlsplit(value)
        if not (parts.query or parts.fragment or "@" in parts.netloc):
            return value.rstrip("/")
    except ValueError:
        pass
    raise _wrong(name, "is not a URL such as https://foreman.example.com")


def _wrong(name: str, message: str) -> MachineError:
    return MachineError([Problem(f"kernel command line: {name}", message)])


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("not a server")
    return parts.scheme, parts.hostname.lower(), parts.port or _PORTS[parts.scheme]
