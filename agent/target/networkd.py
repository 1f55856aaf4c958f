"""Make the systemd-networkd configuration of the installed system from the plan's network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.plan.network import Interface, Match
from agent.target.tree import TargetFile

DIRECTORY = "/etc/systemd/network"
WAIT_ONLINE = "/usr/lib/systemd/systemd-networkd-wait-online"


def networkd(network: Sequence[Interface]) -> tuple[TargetFile, ...]:
    """Return one .network file per interface, and what keeps a port without a cable harmless.

    The names sort before those that systemd-network-generator makes of `ip=` in /run (70-…), so in
    the installed system the plan rules and not the initrd's shorter version of it.
    """
    files = [
        TargetFile.text(f"{DIRECTORY}/10-bedplate-{number}.network", _network(interface))
        for number, interface in enumerate(network)
    ]
    return (*files, _wait_for_any())


def _wait_for_any() -> TargetFile:
    # As it comes, it waits for every interface, and fails after two minutes at an unused port.
    return TargetFile.text(
        "/etc/systemd/system/systemd-networkd-wait-online.service.d/10-bedplate.conf",
        f"[Service]\nExecStart=\nExecStart={WAIT_ONLINE} --any\n",
    )


def _network(interface: Interface) -> str:
    sections = {
        "Match": list(_match(interface.match)),
        "Network": [
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
    return "\n".join(
        f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items()
    )


def _match(match: Match) -> Iterator[str]:
    if match.mac is not None:
        # The permanent one: a VLAN, or a port in a bond, shows the same or another MACAddress.
        yield f"PermanentMACAddress={match.mac}"
    elif match.name is not None:
        yield f"Name={match.name}"
    else:
        yield "Type=ether"
        yield "Kind=!*"
