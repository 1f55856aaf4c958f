"""How the installed system reaches the network, also in the initrd where Tang is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StrictStr, WithJsonSchema

from agent.plan.disks import OneOrMore
from agent.plan.part import Fault, Kind, OneOrMany, Part, one_of, shown
from agent.plan.text import InterfaceAddress, IpAddress, Mac

Dhcp = Literal["yes", "no", "ipv4", "ipv6"]
DHCP: tuple[Dhcp, ...] = ("yes", "no", "ipv4", "ipv6")
Mode = Literal[
    "active-backup",
    "802.3ad",
    "balance-rr",
    "balance-xor",
    "broadcast",
    "balance-tlb",
    "balance-alb",
]
MODES: tuple[Mode, ...] = (
    "active-backup", "802.3ad", "balance-rr", "balance-xor", "broadcast", "balance-tlb",
    "balance-alb",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")  # IFNAMSIZ is 16 with the final NUL


def parse_name(text: str) -> str:
    """Return the name of a network interface."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{shown(text)} is not an interface name such as enp1s0")
    return text


InterfaceName = Annotated[StrictStr, Kind("interface name"), AfterValidator(parse_name)]


def spelled(value: object) -> object:
    """Return "yes" for true and "no" for false: YAML reads the bare words as these."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def as_interfaces(value: object) -> object:
    """Turn one mapping into a list of one: it then stands for every wired interface."""
    return (value,) if isinstance(value, dict) else value


class Match(Part):
    """Which interface is meant: one of the two keys.

    Without it every wired interface is meant.
    """

    example: ClassVar[str] = """\
mac: 52:54:00:12:34:56
"""

    mac: Mac | None = Field(None, description="its MAC address")
    name: InterfaceName | None = Field(
        None, description="its name, as the installed system will call it"
    )

    @property
    def everything(self) -> bool:
        return self.mac is None and self.name is None

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._one_key(),)

    def _one_key(self) -> Iterator[Fault]:
        if self.mac is not None and self.name is not None:
            yield Fault(("name",), "there is a mac too: one of them says which interface is meant")


class Bond(Part):
    """Several interfaces as one.

    Its ports are watched every 100 ms. Its MAC address is that of its first port, where that is
    given. `802.3ad` (LACP) must be set up on the switch too.
    """

    example: ClassVar[str] = """\
ports: [{mac: 52:54:00:12:34:56}, {mac: 52:54:00:12:34:57}]
mode: 802.3ad
"""

    name: InterfaceName = Field("bond0", description="what it is called")
    ports: tuple[Match, ...] = Field(
        description="its interfaces, each by `mac` or `name`", min_length=1, max_length=16
    )
    mode: Annotated[Mode, one_of(MODES)] = Field(
        "active-backup", description="how they share the work (the kernel's bonding.rst)"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._ports_differ(),)

    def _ports_differ(self) -> Iterator[Fault]:
        for number, port in enumerate(self.ports):
            if port.everything:
                yield Fault(("ports", number), "is empty: give its mac or name")
            elif port in self.ports[:number]:
                yield Fault(("ports", number), "is there twice")
            elif port.name == self.name:
                yield Fault(("ports", number), f"{port.name} is what the bond itself is called")


class Interface(Part):
    """A network interface of the installed system.

    A mapping instead of a list stands for every wired interface: `network: {dhcp: yes}`. The
    addresses are those of what `match` says, or of the `bond`, or of a `vlan` on one of them.
    Several VLANs of a bond are several entries, each with the same bond (YAML's `&` and `*` save
    words). Where Tang is asked at boot the initrd brings them up too, which takes dracut.
    """

    later: ClassVar[frozenset[str]] = frozenset({"bridge", "domains", "mtu", "routes"})
    example: ClassVar[str] = """\
match: {mac: 52:54:00:12:34:56}
addresses: [192.0.2.7/24, "2001:db8::7/64"]
gateway: [192.0.2.1, "2001:db8::1"]
dns: [192.0.2.53]
"""

    match: Match = Field(Match(), description="which interface; without it every wired one")
    bond: Bond | None = Field(None, description="instead of `match`: several interfaces as one")
    vlan: Annotated[StrictInt, Field(ge=1, le=4094)] | None = Field(
        None, description="number of the VLAN (802.1Q), called `vlan` and its number: `vlan42`"
    )
    dhcp: Annotated[
        Dhcp,
        one_of(DHCP),
        BeforeValidator(spelled),
        WithJsonSchema({"enum": [*DHCP, True, False]}),
    ] = Field(
        "no", description="`yes` for both families, or the one family that is asked for an address"
    )
    addresses: tuple[InterfaceAddress, ...] = Field((), description="fixed addresses")
    gateway: OneOrMore[IpAddress] = Field(
        (), description="default gateway, at most one of each family"
    )
    dns: tuple[IpAddress, ...] = Field((), description="name servers")

    @property
    def link(self) -> str | None:
        """The name of the VLAN or bond that has the addresses, None for an interface itself."""
        if self.vlan is not None:
            return f"vlan{self.vlan}"
        return None if self.bond is None else self.bond.name

    @property
    def everything(self) -> bool:
        """Whether it stands for every wired interface."""
        return self.bond is None and self.match.everything

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (
            self._is_used(),
            self._is_one_interface(),
            self._match_or_bond(),
            self._gateways(),
            self._no_repeats(),
        )

    def _is_used(self) -> Iterator[Fault]:
        if self.dhcp == "no" and not self.addresses:
            yield Fault((), "has neither dhcp nor addresses: give dhcp: yes or addresses")

    def _is_one_interface(self) -> Iterator[Fault]:
        what = "addresses belong" if self.addresses else "a VLAN belongs"
        if self.everything and (self.addresses or self.vlan is not None):
            message = f"is missing: {what} to one interface, give its mac or name"
            yield Fault(("match",), message)

    def _match_or_bond(self) -> Iterator[Fault]:
        if self.bond is not None and not self.match.everything:
            yield Fault(
                ("match",), "there is a bond too: one of them says which interface is meant"
            )

    def _gateways(self) -> Iterator[Fault]:
        families: set[int] = set()
        for number, gateway in enumerate(self.gateway):
            if gateway.version in families:
                yield Fault(("gateway", number), f"{gateway} is a second one of its family")
            families.add(gateway.version)
            near = any(gateway in address.network for address in self.addresses)
            if not near and not gateway.is_link_local:
                message = f"{gateway} lies in the network of none of the addresses"
                yield Fault(("gateway", number), message)

    def _no_repeats(self) -> Iterator[Fault]:
        for number, address in enumerate(self.addresses):
            if address.ip in [other.ip for other in self.addresses[:number]]:
                yield Fault(("addresses", number), f"{address.ip} is there twice")


Network = Annotated[
    tuple[Interface, ...], Field(min_length=1), BeforeValidator(as_interfaces), OneOrMany()
]
EVERY_WIRED_BY_DHCP = (Interface(dhcp="yes"),)


def network_faults(network: tuple[Interface, ...]) -> Iterator[Fault]:
    """Yield what is wrong between the interfaces."""
    for number, interface in enumerate(network):
        before = network[:number]
        if interface.everything and len(network) > 1:
            yield Fault((number, "match"), "is missing: with several interfaces each needs one")
        elif interface.vlan is not None and interface.vlan in [other.vlan for other in before]:
            yield Fault((number, "vlan"), f"{interface.vlan} is there twice")
        elif _carrier(interface) in [_carrier(other) for other in before]:
            where = "match" if interface.bond is None else "bond"
            yield Fault((number, where), "is the same as that of an interface before it")
        yield from _bond_faults(number, interface, network)


def _carrier(interface: Interface) -> tuple[Match, Bond | None, int | None]:
    return interface.match, interface.bond, interface.vlan


def _bond_faults(
    number: int, interface: Interface, network: tuple[Interface, ...]
) -> Iterator[Fault]:
    bond = interface.bond
    if bond is None:
        return
    before = [other.bond for other in network[:number] if other.bond is not None]
    others = [other for other in before if other != bond]
    if bond.name in [other.name for other in others]:
        message = f"{bond.name} is another bond before: name it otherwise"
        yield Fault((number, "bond", "name"), message)
    if bond.name in [other.link for other in network if other.vlan is not None]:
        yield Fault((number, "bond", "name"), f"{bond.name} is the name of a VLAN: take another")
    taken = [port for other in others for port in other.ports]
    taken += [other.match for other in network if other.bond is None]
    for at, port in enumerate(bond.ports):
        if port in taken:
            message = "is in use by another entry: a port has no addresses of its own"
            yield Fault((number, "bond", "ports", at), message)
