"""Make NetworkManager's configuration of the installed system from the plan's network.

For images that have no systemd-networkd: RHEL, and what is made from it. One keyfile for each
interface (nm-settings-keyfile(5)); NetworkManager ignores one that others may read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface

from agent.plan.network import Interface, Match
from agent.target.networkd import kept_names
from agent.target.tree import TargetFile

DIRECTORY = "/etc/NetworkManager/system-connections"
Sections = Mapping[str, Sequence[str]]
_BY_DHCP = {4: ("yes", "ipv4"), 6: ("yes", "ipv6")}


def network_manager(network: Sequence[Interface]) -> tuple[TargetFile, ...]:
    """Return one connection per interface; of two that fit a port the plan's wins (priority).

    A bond has one of its own and one for each port, a VLAN one beside that of what carries it.
    """
    texts: dict[str, str] = {}
    for number, interface in enumerate(network):
        own = {"ipv4": list(_of_family(interface, 4)), "ipv6": list(_of_family(interface, 6))}
        if interface.vlan is not None:
            name = f"bedplate-{number}"
            texts[name] = _text(
                name,
                f"vlan\ninterface-name={interface.link}",
                {
                    **_parent(interface),
                    **own,
                },
            )
            carriers = [other for other in network if _same_carrier(interface, other)]
            if carriers[0] is interface and all(other.vlan is not None for other in carriers):
                nothing = {"ipv4": ["method=disabled"], "ipv6": ["method=disabled"]}
                texts |= _carrier(f"bedplate-{number}-carrier", interface, nothing)
        else:
            texts |= _carrier(f"bedplate-{number}", interface, own)
    files = tuple(
        TargetFile.text(f"{DIRECTORY}/{name}.nmconnection", text, 0o600)
        for name, text in texts.items()
    )
    return (*files, *kept_names(network))


def _same_carrier(one: Interface, other: Interface) -> bool:
    return (one.match, one.bond) == (other.match, other.bond)


def _parent(interface: Interface) -> Sections:
    """Return what says on what a VLAN lies: a name, or the MAC address of a card."""
    parent = interface.match.name if interface.bond is None else interface.bond.name
    vlan = [f"id={interface.vlan}", *([f"parent={parent}"] if parent else [])]
    sections = {"vlan": vlan}
    if interface.bond is None and interface.match.mac is not None:
        sections["ethernet"] = [f"mac-address={interface.match.mac}"]
    return sections


def _carrier(name: str, interface: Interface, own: Sections) -> dict[str, str]:
    """Return the connection of an interface or bond, with those of a bond's ports."""
    bond = interface.bond
    if bond is None:
        return {name: _ethernet(name, interface.match, own)}
    sections: Sections = {"bond": [f"mode={bond.mode}", "miimon=100"], **own}
    if bond.ports[0].mac is not None:  # what a DHCP server knows
        sections = {"ethernet": [f"cloned-mac-address={bond.ports[0].mac}"], **sections}
    texts = {name: _text(name, f"bond\ninterface-name={bond.name}", sections)}
    for number, port in enumerate(bond.ports):
        called = f"{name}-port{number}"
        # These two keys have new names since NetworkManager 1.46, which knows the old ones too.
        texts[called] = _ethernet(called, port, {}, f"\nmaster={bond.name}\nslave-type=bond")
    return texts


def _ethernet(name: str, match: Match, own: Sections, more: str = "") -> str:
    if match.mac is not None:
        # The permanent one: a port in a bond shows another.
        return _text(name, f"ethernet{more}", {"ethernet": [f"mac-address={match.mac}"], **own})
    # multiple: every wired port has it at once
    which = f"interface-name={match.name}" if match.name is not None else "multi-connect=3"
    return _text(name, f"ethernet\n{which}{more}", {"ethernet": [], **own})


def _text(name: str, kind: str, sections: Sections) -> str:
    connection = f"id={name}\ntype={kind}\nautoconnect-priority=100"
    return "\n".join(
        f"[{title}]\n" + "".join(f"{line}\n" for line in lines)
        for title, lines in {"connection": [connection], **sections}.items()
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
