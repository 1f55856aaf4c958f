"""How the installed system reaches the network, also in the initrd where Tang is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, WithJsonSchema

from agent.plan.disks import OneOrMore
from agent.plan.part import Fault, Kind, OneOrMany, Part, one_of, shown
from agent.plan.text import InterfaceAddress, IpAddress, Mac

Dhcp = Literal["yes", "no", "ipv4", "ipv6"]
DHCP: tuple[Dhcp, ...] = ("yes", "no", "ipv4", "ipv6")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")  # IFNAMSIZ is 16 with the final NUL


def parse_name(text: str) -> str:
    """Return the name of a network interface."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{shown(text)} is not an interface name such as enp1s0")
    return text


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
    name: Annotated[StrictStr, Kind("interface name"), AfterValidator(parse_name)] | None = Field(
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


class Interface(Part):
    """A network interface of the installed system.

    A mapping instead of a list stands for every wired interface: `network: {dhcp: yes}`.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"bond", "bridge", "domains", "mtu", "routes", "vlan"}
    )
    example: ClassVar[str] = """\
match: {mac: 52:54:00:12:34:56}
addresses: [192.0.2.7/24, "2001:db8::7/64"]
gateway: [192.0.2.1, "2001:db8::1"]
dns: [192.0.2.53]
"""

    match: Match = Field(Match(), description="which interface; without it every wired one")
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

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._is_used(), self._is_one_interface(), self._gateways(), self._no_repeats()

    def _is_used(self) -> Iterator[Fault]:
        if self.dhcp == "no" and not self.addresses:
            yield Fault((), "has neither dhcp nor addresses: give dhcp: yes or addresses")

    def _is_one_interface(self) -> Iterator[Fault]:
        if self.match.everything and self.addresses:
            message = "is missing: addresses belong to one interface, give its mac or name"
            yield Fault(("match",), message)

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
        if interface.match.everything and len(network) > 1:
            yield Fault((number, "match"), "is missing: with several interfaces each needs one")
        elif interface.match in [other.match for other in network[:number]]:
            yield Fault((number, "match"), "is the same as that of an interface before it")
