"""How the installed system reaches the network, also in the initrd where Tang is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr

from agent.plan.disks import OneOrMore
from agent.plan.part import Fault, Part, one_of, shown
from agent.plan.text import InterfaceAddress, IpAddress, Mac

Dhcp = Literal["yes", "no", "ipv4", "ipv6"]
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
    """Which interface is meant; without a key every wired one is."""

    later: ClassVar[frozenset[str]] = frozenset({"driver", "path", "pci"})

    mac: Mac | None = Field(None, description="its MAC address")
    name: Annotated[StrictStr, AfterValidator(parse_name)] | None = Field(
        None, description="its name, as the installed system will call it"
    )

    @property
    def everything(self) -> bool:
        return self.mac is None and self.name is None


class Interface(Part):
    """One network interface."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"vlan", "vlans", "bond", "bridge", "routes", "mtu", "search", "domains", "wifi", "ipv6"}
    )

    match: Match = Field(Match(), description="which interface; without it every wired one")
    dhcp: Annotated[Dhcp, one_of(("yes", "no", "ipv4", "ipv6")), BeforeValidator(spelled)] = Field(
        "no", description="yes for both families, or the one family that is asked for"
    )
    addresses: tuple[InterfaceAddress, ...] = Field((), description="addresses with prefix length")
    gateway: OneOrMore[IpAddress] = Field(
        (), description="default gateway, at most one of each family"
    )
    dns: tuple[IpAddress, ...] = Field((), description="name servers")

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._is_used(), self._is_one_interface(), self._gateways()

    def _is_used(self) -> Iterator[Fault]:
        if self.dhcp == "no" and not self.addresses:
            yield Fault((), "has neither dhcp nor addresses: give dhcp: yes or addresses")

    def _is_one_interface(self) -> Iterator[Fault]:
        if self.match.everything and self.addresses:
            yield Fault(
                ("match",), "is missing: addresses belong to one interface, give mac or name"
            )
        if self.match.mac and self.match.name:
            yield Fault(("match",), "has mac and name: one of them says which interface is meant")

    def _gateways(self) -> Iterator[Fault]:
        families: set[int] = set()
        for number, gateway in enumerate(self.gateway):
            if gateway.version in families:
                yield Fault(("gateway", number), f"{gateway} is a second one of its family")
            families.add(gateway.version)
            near = any(gateway in address.network for address in self.addresses)
            if not near and not gateway.is_link_local:
                yield Fault(
                    ("gateway", number), f"{gateway} lies in the network of none of the addresses"
                )


Network = Annotated[tuple[Interface, ...], BeforeValidator(as_interfaces), Field(min_length=1)]
EVERY_WIRED_BY_DHCP = (Interface(dhcp="yes"),)


def network_faults(network: tuple[Interface, ...]) -> Iterator[Fault]:
    """Yield what is wrong between the interfaces."""
    for number, interface in enumerate(network):
        if interface.match.everything and len(network) > 1:
            yield Fault((number, "match"), "is missing: with several interfaces each needs one")
        elif interface.match in [other.match for other in network[:number]]:
            yield Fault((number, "match"), "is the same as that of an interface before it")
