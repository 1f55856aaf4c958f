"""What brings up the network of the installed system, and how the plan is told to it."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from agent.plan.configure import Configure
from agent.target.contents import Unpacked
from agent.target.family import problems
from agent.target.host_network import host_network
from agent.target.network_manager import network_manager
from agent.target.os_release import os_release
from agent.target.tree import TargetFile
from tests.unit.target.distributions import red_hat
from tests.unit.target.test_distributions import ALL

MAC = "52:54:00:12:34:56"


def made(given: object) -> list[TargetFile]:
    return list(network_manager(Configure.model_validate({"network": given}).network))


def sections(given: object) -> dict[str, dict[str, str]]:
    [file] = made(given)
    parser = configparser.ConfigParser(delimiters="=")
    parser.read_string(file.content.decode())
    return {name: dict(parser[name]) for name in parser.sections()}


def test_networkd_is_taken_where_it_is_there_and_network_manager_where_it_is_not(
    tmp_path: Path,
) -> None:
    tree = red_hat(tmp_path)
    tree.write(TargetFile.text("/usr/sbin/NetworkManager", ""))
    assert host_network(Unpacked(tree)).unit == "systemd-networkd.service"
    tree.remove("/usr/lib/systemd/systemd-networkd")
    chosen = host_network(Unpacked(tree))
    assert chosen.unit == "NetworkManager.service"
    assert list(problems("rhel9", Unpacked(tree), os_release(tree), ALL, "x86_64")) == []
    tree.remove("/usr/sbin/NetworkManager")
    [problem] = problems("rhel9", Unpacked(tree), os_release(tree), ALL, "x86_64")
    assert "has no systemd-networkd" in problem.message


def test_every_wired_port_asks_for_an_address_with_one_connection() -> None:
    said = sections({"dhcp": True})
    assert said["connection"]["multi-connect"] == "3"
    assert said["ipv4"] == {"method": "auto", "dhcp-client-id": "mac"}
    assert said["ipv6"] == {"method": "auto"}


def test_a_fixed_address_has_its_gateway_and_servers_of_its_family() -> None:
    said = sections(
        [
            {
                "match": {"mac": MAC},
                "addresses": ["192.0.2.7/24", "192.0.2.8/24", "2001:db8::7/64"],
                "gateway": ["192.0.2.1", "2001:db8::1"],
                "dns": ["192.0.2.53", "192.0.2.54", "2001:db8::53"],
            }
        ]
    )
    assert said["ethernet"] == {"mac-address": MAC}
    assert said["ipv4"] == {
        "method": "manual",
        "address1": "192.0.2.7/24,192.0.2.1",
        "address2": "192.0.2.8/24",
        "dns": "192.0.2.53;192.0.2.54;",
    }
    assert said["ipv6"] == {
        "method": "manual",
        "address1": "2001:db8::7/64,2001:db8::1",
        "dns": "2001:db8::53;",
    }


@pytest.mark.parametrize(
    ("dhcp", "four", "six"),
    [("yes", "auto", "auto"), ("ipv4", "auto", "auto"), ("ipv6", "disabled", "auto")],
)
def test_each_family_is_asked_for_as_the_plan_says(dhcp: str, four: str, six: str) -> None:
    said = sections([{"match": {"name": "eth0"}, "dhcp": dhcp}])
    assert said["connection"]["interface-name"] == "eth0"
    assert (said["ipv4"]["method"], said["ipv6"]["method"]) == (four, six)


def test_nobody_but_root_may_read_a_connection() -> None:
    """NetworkManager passes over a file that is open to others."""
    assert [file.mode for file in made([{"match": {"mac": MAC}, "dhcp": True}])] == [0o600]


BOND = {"ports": [{"mac": MAC}, {"name": "eth1"}], "mode": "802.3ad"}


def connections(given: object) -> dict[str, dict[str, dict[str, str]]]:
    found = {}
    for file in made(given):
        if file.path.suffix != ".nmconnection":
            continue
        parser = configparser.ConfigParser(delimiters="=")
        parser.read_string(file.content.decode())
        found[file.path.stem] = {name: dict(parser[name]) for name in parser.sections()}
    return found


def test_a_bond_is_a_connection_with_one_for_each_port() -> None:
    said = connections({"bond": BOND, "dhcp": "ipv4"})
    bond = said.pop("bedplate-0")
    assert (bond["connection"]["type"], bond["connection"]["interface-name"]) == ("bond", "bond0")
    assert bond["bond"] == {"mode": "802.3ad", "miimon": "100"}
    assert bond["ethernet"] == {"cloned-mac-address": MAC}
    assert bond["ipv4"]["method"] == "auto"
    one, two = said.values()
    assert one["ethernet"] == {"mac-address": MAC}
    assert two["connection"]["interface-name"] == "eth1"
    for port in (one, two):
        assert port["connection"]["master"] == "bond0"
        assert port["connection"]["slave-type"] == "bond"
        assert "ipv4" not in port


def test_udev_keeps_the_names_of_bonds_and_vlans_here_too() -> None:
    given = [{"bond": BOND, "vlan": 42, "dhcp": True}, {"match": {"name": "eth2"}, "dhcp": True}]
    links = [str(file.path) for file in made(given) if file.path.suffix == ".link"]
    assert links == [
        "/etc/systemd/network/10-bedplate-bond0.link",
        "/etc/systemd/network/10-bedplate-vlan42.link",
    ]


def test_vlans_lie_on_a_bond_or_on_the_card_of_a_mac() -> None:
    said = connections(
        [
            {"bond": BOND, "vlan": 42, "dhcp": True},
            {"bond": BOND, "vlan": 43, "dhcp": True},
            {"match": {"mac": "52:54:00:12:34:58"}, "vlan": 44, "addresses": ["192.0.2.7/24"]},
        ]
    )
    assert said["bedplate-0"]["vlan"] == {"id": "42", "parent": "bond0"}
    assert said["bedplate-1"]["connection"]["interface-name"] == "vlan43"
    assert said["bedplate-2"]["vlan"] == {"id": "44"}
    assert said["bedplate-2"]["ethernet"] == {"mac-address": "52:54:00:12:34:58"}
    for carrier in ("bedplate-0-carrier", "bedplate-2-carrier"):
        assert said[carrier]["ipv4"] == said[carrier]["ipv6"] == {"method": "disabled"}
    assert len(said) == 7
    assert len({one["connection"]["id"] for one in said.values()}) == 7
