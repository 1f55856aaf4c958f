"""Make the kernel options that bring up the network in the initrd, where Tang is asked.

dracut.cmdline(7) defines them; dracut's network modules and systemd-network-generator(8) read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface

from agent.plan.network import Interface, Match

_DHCP = {"yes": "dhcp", "ipv4": "dhcp", "ipv6": "dhcp6", "no": "none"}


def initrd_network(network: Sequence[Interface], names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the options, `rd.neednet=1` first: Clevis adds that only to a host-only initrd.

    `names` maps the MAC of each port of this machine to its name: where the plan says which port by
    MAC, `ifname=` gives it that name in the initrd, and it keeps it afterwards.
    """
    options = ["rd.neednet=1"]
    named = _Names(names)
    for interface in network:
        if interface.bond is not None:
            ports = [named.of(port, options) for port in interface.bond.ports]
            settings = f"mode={interface.bond.mode},miimon=100"
            carrier: str | None = interface.bond.name
            _add(options, f"bond={carrier}:{','.join(map(str, ports))}:{settings}")
        else:
            carrier = named.of(interface.match, options)
        if interface.vlan is not None:
            _add(options, f"vlan={interface.link}:{carrier}")
        options += _of(interface, interface.link or carrier)
        for server in interface.dns:
            _add(options, f"nameserver={server}")
    return tuple(options)


@dataclass
class _Names:
    """What ports are called in the initrd; one that this machine has not shown is net0, net1."""

    known: Mapping[str, str]
    given: dict[str, str] = field(default_factory=dict)

    def of(self, match: Match, options: list[str]) -> str | None:
        """Return the name of a port; `ifname=` gives it that name where the plan has its MAC."""
        if match.mac is None:
            return match.name
        name = self.known.get(match.mac) or self.given.get(match.mac)
        if name is None:
            name = self.given[match.mac] = f"net{len(self.given)}"
        _add(options, f"ifname={name}:{match.mac}")
        return name


def _add(options: list[str], option: str) -> None:
    if option not in options:
        options.append(option)


def _of(interface: Interface, name: str | None) -> Iterator[str]:
    how = _DHCP[interface.dhcp]
    if name is None:
        yield f"ip={how}"
        return
    if not interface.addresses:
        yield f"ip={name}:{how}"
    gateways = {gateway.version: str(gateway) for gateway in interface.gateway}
    for address in interface.addresses:
        # One default route of each family: with the first address of that family.
        gateway = gateways.pop(address.version, "")
        yield (
            f"ip={_bracketed(str(address.ip))}::{_bracketed(gateway)}:{_mask(address)}::{name}:{how}"
        )


def _mask(address: IPv4Interface | IPv6Interface) -> str:
    if isinstance(address, IPv4Interface):
        return str(address.netmask)
    return str(address.network.prefixlen)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
