"""Make the kernel options that bring up the network in the initrd, where Tang is asked.

dracut.cmdline(7) defines them; dracut's network modules and systemd-network-generator(8) read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface

from agent.plan.network import Interface

_DHCP = {"yes": "dhcp", "ipv4": "dhcp", "ipv6": "dhcp6", "no": "none"}


def initrd_network(network: Sequence[Interface], names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the options, `rd.neednet=1` first: Clevis adds that only to a host-only initrd.

    `names` maps the MAC of each port of this machine to its name: where the plan says which port by
    MAC, `ifname=` gives it that name in the initrd, and it keeps it afterwards.
    """
    options = ["rd.neednet=1"]
    for number, interface in enumerate(network):
        mac = interface.match.mac
        if mac is not None:
            name = names.get(mac, f"net{number}")
            options.append(f"ifname={name}:{mac}")
            options += _of(interface, name)
        else:
            options += _of(interface, interface.match.name)
        options += (f"nameserver={server}" for server in interface.dns)
    return tuple(options)


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
