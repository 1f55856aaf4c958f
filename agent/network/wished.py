"""What the options of the kernel command line ask of the network, all together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.errors import Problem
from agent.network.addresses import (
    Address,
    Ip,
    Network,
    fields,
    interface,
    parse_address,
    parse_ip,
    parse_mac,
    parse_mtu,
    parse_network,
)
from agent.network.words import options

_VLAN = re.compile(r".*?(\d+)")


@dataclass(frozen=True)
class Vlan:
    name: str
    number: int
    parent: str
    """An interface, or "" for the one that was booted from."""


@dataclass(frozen=True)
class Bond:
    name: str
    ports: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    mtu: int | None = None

    @property
    def primary(self) -> str:
        """The port that is used while it works."""
        return dict(self.options).get("primary", "")


@dataclass(frozen=True)
class Bridge:
    name: str
    ports: tuple[str, ...]


Made = Vlan | Bond | Bridge


@dataclass(frozen=True)
class Route:
    destination: Network
    gateway: Address
    interface: str = ""


@dataclass
class Wished:
    """Everything that was asked for; `problems` are the options that could not be understood."""

    ips: list[Ip] = field(default_factory=list)
    vlans: list[Vlan] = field(default_factory=list)
    bonds: list[Bond] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    dns: list[Address] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Interface to MAC: `ifname=`."""
    peer_dns: bool = True
    boot_mac: str | None = None
    only_boot: bool = False
    """Leave every card alone but the one that was booted from."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def made(self) -> list[Made]:
        """The interfaces that networkd makes."""
        return [*self.vlans, *self.bonds, *self.bridges]

    @property
    def masters(self) -> list[Bond | Bridge]:
        """Those of them that have ports."""
        return [*self.bonds, *self.bridges]

    def interfaces(self) -> set[str]:
        """Return every name of a card that must exist for this to work."""
        made = {each.name for each in self.made}
        named = {ip.interface for ip in self.ips} | {vlan.parent for vlan in self.vlans}
        named |= {route.interface for route in self.routes}
        named |= {port for each in self.masters for port in each.ports}
        return named - made - self.names.keys() - {""}


def read(words: Sequence[str]) -> Wished:
    """Read the options; one that is wrong becomes a problem with its name, the others count."""
    wished = Wished()
    for name, value in options(words):
        reader = READERS.get(name)
        if reader is None:
            continue
        try:
            reader(wished, value)
        except ValueError as error:
            wished.problems.append(Problem("kernel command line", f"{name}={value}: {error}"))
    _agree(wished)
    return wished


def _agree(wished: Wished) -> None:
    """Name what each option alone cannot: one interface made twice, or used twice."""
    made: set[str] = set()
    for each in wished.made:
        if each.name in made:
            wished.problems.append(
                Problem("kernel command line", f"{each.name}: is made by two options")
            )
        made.add(each.name)
    used: set[str] = set()
    for master in wished.masters:
        for port in master.ports:
            if port in used:
                message = f"{port}: is a port of {master.name} and of another"
                wished.problems.append(Problem("kernel command line", message))
            used.add(port)


def _ip(wished: Wished, value: str) -> None:
    wished.ips.append(parse_ip(value))


def _nameserver(wished: Wished, value: str) -> None:
    wished.dns.append(parse_address(value, "name server"))


def _peer_dns(wished: Wished, value: str) -> None:
    wished.peer_dns = value.lower() not in ("0", "no", "off", "false")


def _route(wished: Wished, value: str) -> None:
    parts = fields(value)
    if len(parts) not in (2, 3):
        raise ValueError("must be NET/PREFIX:GATEWAY or NET/PREFIX:GATEWAY:INTERFACE")
    destination, gateway = parse_network(parts[0]), parse_address(parts[1], "gateway")
    if destination.version != gateway.version:
        raise ValueError(f"gateway {gateway} is not of the family of {destination}")
    name = interface(parts[2]) if len(parts) == 3 and parts[2] else ""
    wished.routes.append(Route(destination, gateway, name))


def _vlan(wished: Wished, value: str) -> None:
    name, colon, parent = value.partition(":")
    if not colon:
        raise ValueError("must be NAME:INTERFACE, such as eth0.5:eth0")
    wished.vlans.append(Vlan(interface(name), vlan_number(name), interface(parent)))


def vlan_number(name: str) -> int:
    """Return the digits that a name ends with: eth0.5, eth0.0005, vlan5, vlan0005."""
    match = _VLAN.fullmatch(name)
    if match is None or not 1 <= int(match.group(1)) <= 4094:
        raise ValueError(f"{name}: must end with the number of a VLAN (1 to 4094)")
    return int(match.group(1))


def _bond(wished: Wished, value: str) -> None:
    name, _, rest = value.partition(":")
    parts = _split_bond(rest)
    ports = tuple(interface(port) for port in parts[0].split(",") if port)
    if not ports:
        raise ValueError("names no ports; must be NAME:PORT,PORT:OPTIONS")
    chosen = []
    for option in filter(None, parts[1].split(",")):
        key, equals, setting = option.partition("=")
        if not equals or not setting:
            raise ValueError(f"{option}: must be OPTION=VALUE")
        chosen.append((key, setting))
    mtu = parse_mtu(parts[2]) if parts[2] else None
    wished.bonds.append(Bond(interface(name), ports, tuple(chosen), mtu))


def _split_bond(rest: str) -> tuple[str, str, str]:
    """Split PORTS:OPTIONS:MTU; options may hold IPv6 addresses, so the MTU is what is digits."""
    ports, _, more = rest.partition(":")
    options_, colon, mtu = more.rpartition(":")
    if colon and (mtu == "" or mtu.isdigit()) and "=" in options_ + "=":
        return ports, options_, mtu
    return ports, more, ""


def _bridge(wished: Wished, value: str) -> None:
    name, _, ports = value.partition(":")
    found = tuple(interface(port) for port in ports.split(",") if port)
    if not found:
        raise ValueError("names no ports; must be NAME:PORT,PORT")
    wished.bridges.append(Bridge(interface(name), found))


def _team(wished: Wished, value: str) -> None:
    del wished, value
    raise ValueError("team devices are not supported; bond= does the same")


def _ifname(wished: Wished, value: str) -> None:
    name, _, mac = value.partition(":")
    wished.names[interface(name)] = parse_mac(mac)


def _bootif(wished: Wished, value: str) -> None:
    # PXELINUX puts the hardware type in front: 01-aa-bb-…; GRUB has colons behind it.
    parts = value.replace("-", ":").split(":")
    wished.boot_mac = parse_mac(":".join(parts[1:] if len(parts) == 7 else parts))


Reader = Callable[[Wished, str], None]
READERS: dict[str, Reader] = {
    "ip": _ip,
    "nameserver": _nameserver,
    "rd.peerdns": _peer_dns,
    "rd.route": _route,
    "vlan": _vlan,
    "bond": _bond,
    "bridge": _bridge,
    "team": _team,
    "ifname": _ifname,
    "BOOTIF": _bootif,
}
