"""Make the systemd-networkd configuration of the installed system from the plan's network.

Bonds and VLANs are a .netdev each; what carries them is a .network that names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.plan.network import Bond, Interface, Match
from agent.target.tree import TargetFile

DIRECTORY = "/etc/systemd/network"
WAIT_ONLINE = "/usr/lib/systemd/systemd-networkd-wait-online"


def networkd(network: Sequence[Interface]) -> tuple[TargetFile, ...]:
    """Return one .network file per interface, and what keeps a port without a cable harmless.

    The names sort before those that systemd-network-generator makes of `ip=` in /run (70-…), so in
    the installed system the plan rules and not the initrd's shorter version of it.
    """
    texts: dict[str, str] = {}
    for number, interface in enumerate(network):
        texts[f"{number}.network"] = _network(interface, _on(interface, network))
        texts |= _below(number, interface, network)
    files = [
        TargetFile.text(f"{DIRECTORY}/10-bedplate-{name}", text) for name, text in texts.items()
    ]
    return (*files, *kept_names(network), _wait_for_any(), _generated_once())


def kept_names(network: Sequence[Interface]) -> tuple[TargetFile, ...]:
    """Return what keeps udev from renaming a bond or VLAN; it has the MAC address of a port.

    systemd-network-generator(8) makes of `ifname=NAME:MAC` that whatever has this address is called
    so, and a bond without a name is one that nobody finds. The first file that fits counts.
    """
    return tuple(
        TargetFile.text(
            f"{DIRECTORY}/10-bedplate-{name}.link",
            _text(
                {
                    "Match": [f"OriginalName={name}"],
                    "Link": ["NamePolicy=keep", "MACAddressPolicy=none"],
                }
            ),
        )
        for name in links(network)
    )


def links(network: Sequence[Interface]) -> tuple[str, ...]:
    """Return the names of the bonds and VLANs."""
    bonds = [interface.bond.name for interface in network if interface.bond is not None]
    vlans = [str(interface.link) for interface in network if interface.vlan is not None]
    return tuple(dict.fromkeys([*bonds, *vlans]))


def _on(interface: Interface, network: Sequence[Interface]) -> list[str]:
    """Return the VLANs that lie on the interface itself: one that is a VLAN carries none."""
    if interface.vlan is not None:
        return []
    return [
        str(other.link)
        for other in network
        if other.vlan is not None and _same_carrier(interface, other)
    ]


def _same_carrier(one: Interface, other: Interface) -> bool:
    return (one.match, one.bond) == (other.match, other.bond)


def _below(number: int, interface: Interface, network: Sequence[Interface]) -> Mapping[str, str]:
    """Return what a bond or VLAN is made of, by the ends of the files' names."""
    texts: dict[str, str] = {}
    if interface.bond is not None:
        texts |= _bond(interface.bond)
    if interface.vlan is not None:
        device = {"NetDev": [f"Name={interface.link}", "Kind=vlan"]}
        texts[f"{interface.link}.netdev"] = _text({**device, "VLAN": [f"Id={interface.vlan}"]})
        alike = [other for other in network if _same_carrier(interface, other)]
        if all(other.vlan is not None for other in alike) and alike[0] is interface:
            # Nothing else speaks of what carries the VLANs: it is up, and has no address.
            texts[f"{number}-carrier.network"] = _text(
                {
                    "Match": list(_carrier(interface)),
                    # It never gets further than having a carrier; nothing need wait for more.
                    "Link": ["RequiredForOnline=no"],
                    "Network": [
                        "LinkLocalAddressing=no",
                        "IPv6AcceptRA=no",
                        *(f"VLAN={other.link}" for other in alike),
                    ],
                }
            )
    return texts


def _bond(bond: Bond) -> Mapping[str, str]:
    device = [f"Name={bond.name}", "Kind=bond"]
    if bond.ports[0].mac is not None:
        # What a DHCP server knows; systemd would make one of the machine's id (systemd.link(5)).
        device.append(f"MACAddress={bond.ports[0].mac}")
    texts = {
        f"{bond.name}.netdev": _text(
            {"NetDev": device, "Bond": [f"Mode={bond.mode}", "MIIMonitorSec=100ms"]}
        )
    }
    for number, port in enumerate(bond.ports):
        # The bond is waited for, not each port: one without a cable is what a bond is for.
        texts[f"{bond.name}-port{number}.network"] = _text(
            {
                "Match": list(_match(port)),
                "Link": ["RequiredForOnline=no"],
                "Network": [f"Bond={bond.name}"],
            }
        )
    return texts


def _wait_for_any() -> TargetFile:
    # As it comes, it waits for every interface, and fails after two minutes at an unused port.
    return TargetFile.text(
        "/etc/systemd/system/systemd-networkd-wait-online.service.d/10-bedplate.conf",
        f"[Service]\nExecStart=\nExecStart={WAIT_ONLINE} --any\n",
    )


def _generated_once() -> TargetFile:
    # What the initrd made of the kernel command line is in /run still. That of systemd 252 (Debian
    # 12) fails over a file that is there.
    return TargetFile.text(
        "/etc/systemd/system/systemd-network-generator.service.d/10-bedplate.conf",
        "[Unit]\nConditionDirectoryNotEmpty=!/run/systemd/network\n",
    )


def _network(interface: Interface, vlans: Sequence[str]) -> str:
    own = interface.vlan is not None
    sections = {
        "Match": [f"Name={interface.link}"] if own else list(_carrier(interface)),
        "Network": [
            *(f"VLAN={name}" for name in vlans),
            f"DHCP={interface.dhcp}",
            *(f"Address={address}" for address in interface.addresses),
            *(f"Gateway={gateway}" for gateway in interface.gateway),
            *(f"DNS={server}" for server in interface.dns),
        ],
    }
    if interface.dhcp != "no":
        # The initrd asks by MAC too (dracut's networkd module): one lease for both, and the one
        # that a deployment server keeps for this machine.
        sections["DHCPv4"] = ["ClientIdentifier=mac"]
    return _text(sections)


def _text(sections: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(
        f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items()
    )


def _carrier(interface: Interface) -> Iterator[str]:
    """Yield what matches the interface or bond, below a VLAN if there is one."""
    if interface.bond is not None:
        yield f"Name={interface.bond.name}"
    else:
        yield from _match(interface.match)


def _match(match: Match) -> Iterator[str]:
    if match.mac is not None:
        # The permanent one: a VLAN, or a port in a bond, shows the same or another MACAddress.
        yield f"PermanentMACAddress={match.mac}"
    elif match.name is not None:
        yield f"Name={match.name}"
    else:
        yield "Type=ether"
        yield "Kind=!*"
