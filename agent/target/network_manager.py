"""Make NetworkManager's configuration of the installed system from the plan's network.

For images that have no systemd-networkd: RHEL, and what is made from it. One keyfile for each
interface (nm-settings-keyfile(5)); NetworkManager ignores one that others may read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Interface, IPv6Interface

from agent.plan.network import Interface
from agent.target.tree import TargetFile

DIRECTORY = "/etc/NetworkManager/system-connections"
_BY_DHCP = {4: ("yes", "ipv4"), 6: ("yes", "ipv6")}


def network_manager(network: Sequence[Interface]) -> tuple[TargetFile, ...]:
    """Return one connection per interface; of two that fit a port the plan's wins (priority)."""
    return tuple(
        TargetFile.text(
            f"{DIRECTORY}/bedplate-{number}.nmconnection", _connection(number, interface), 0o600
        )
        for number, interface in enumerate(network)
    )


def _connection(number: int, interface: Interface) -> str:
    match = interface.match
    connection = [f"id=bedplate-{number}", "type=ethernet", "autoconnect-priority=100"]
    ethernet = []
    if match.mac is not None:
        # The permanent one: a port in a bond shows another.
        ethernet.append(f"mac-address={match.mac}")
    elif match.name is not None:
        connection.append(f"interface-name={match.name}")
    else:
        connection.append("multi-connect=3")  # multiple: every wired port has it at once
    sections = {
        "connection": connection,
        "ethernet": ethernet,
        "ipv4": list(_of_family(interface, 4)),
        "ipv6": list(_of_family(interface, 6)),
    }
    return "\n".join(
        f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items()
    )


def _of_family(interface: Interface, version: int) -> Iterator[str]:
    addresses = [address for address in interface.addresses if address.version == version]
    gateway = next((str(g) for g in interface.gateway if g.version == version), "")
    yield f"method={_method(interface, version, addresses)}"
    for number, address in enumerate(addresses, start=1):
        # One default route of each family: with the first address of that family.
        with_gateway = f",{gateway}" if gateway and number == 1 else ""
        yield f"address{number}={address}{with_gateway}"
    servers = [str(server) for server in interface.dns if server.version == version]
    if servers:
        yield f"dns={';'.join(servers)};"
    if version == 4 and interface.dhcp in _BY_DHCP[4]:
        # The initrd asks by MAC too: one lease for both, which a deployment server keeps.
        yield "dhcp-client-id=mac"


def _method(
    interface: Interface, version: int, addresses: Sequence[IPv4Interface | IPv6Interface]
) -> str:
    if interface.dhcp in _BY_DHCP[version]:
        return "auto"
    if addresses:
        return "manual"
    # What routers announce is taken without DHCP too, as systemd-networkd does.
    return "auto" if version == 6 else "disabled"
