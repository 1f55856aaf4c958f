from typing import Any

import pytest

from agent.plan.configure import Configure
from agent.plan.network import Interface
from agent.target.host_network import BY_NETWORKD
from agent.target.initrd_network import initrd_network
from agent.target.kernel_options import kernel_options, root_options
from agent.target.networkd import networkd
from tests.unit.target.sample import LUKS, MACHINE_ID, layout

NAMES = {"52:54:00:12:34:56": "enp1s0"}


def network(given: Any) -> tuple[Interface, ...]:
    return Configure.model_validate({"network": given}).network


STATIC = {
    "match": {"mac": "52:54:00:12:34:56"},
    "addresses": ["10.0.0.5/24", "10.0.1.5/24", "2001:db8::5/64"],
    "gateway": ["10.0.0.1", "2001:db8::1"],
    "dns": ["10.0.0.2", "2001:db8::53"],
}


def test_everything_that_leads_to_the_root_is_on_the_command_line() -> None:
    options = kernel_options(root_options(layout(group="vg-0")), MACHINE_ID, (), ())
    assert options == (
        "root=/dev/mapper/vg--0-root",
        "ro",
        "systemd.gpt_auto=0",
        f"rd.luks.name={LUKS}=bedplate-root",
        "rd.luks.options=discard,x-systemd.device-timeout=600s",
        "rd.md.uuid=00000000:00000000:00000000:000001f6",
        "rd.retry=60",
        "rd.lvm.vg=vg-0",
        "systemd.machine_id=22222222222242228222222222222222",
    )


def test_a_single_plain_disk_needs_neither_mirror_nor_luks() -> None:
    options = kernel_options(root_options(layout(disks=1, encrypted=False)), MACHINE_ID, (), ())
    assert not [option for option in options if option.startswith(("rd.md", "rd.luks", "rd.retry"))]


def test_every_volume_is_activated_in_the_initrd() -> None:
    options = kernel_options(
        root_options(layout(mounts=(("/", ()), ("/usr", ())))), MACHINE_ID, (), ()
    )
    assert "rd.lvm.vg=vg0" in options


def test_the_options_of_the_plan_come_last_and_network_only_when_asked_for() -> None:
    wired = initrd_network(network({"dhcp": True}), {})
    options = kernel_options(
        root_options(layout()), MACHINE_ID, wired, ("console=ttyS0", "rd.retry=90")
    )
    assert options[-2:] == ("console=ttyS0", "rd.retry=90")
    assert wired == ("rd.neednet=1", "ip=dhcp")
    assert set(wired) <= set(options)
    assert "rd.neednet=1" not in kernel_options(root_options(layout()), MACHINE_ID, (), ())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"dhcp": True}, ["ip=dhcp"]),
        ({"dhcp": "ipv6"}, ["ip=dhcp6"]),
        ([{"match": {"name": "eno1"}, "dhcp": "ipv4"}], ["ip=eno1:dhcp"]),
        (
            [{"match": {"name": "eno1"}, "addresses": ["192.0.2.7/26"]}],
            ["ip=192.0.2.7:::255.255.255.192::eno1:none"],
        ),
        (
            [{"match": {"name": "eno1"}, "dhcp": "ipv4", "addresses": ["192.0.2.7/26"]}],
            ["ip=192.0.2.7:::255.255.255.192::eno1:dhcp"],
        ),
        (
            [STATIC],
            [
                "ifname=enp1s0:52:54:00:12:34:56",
                "ip=10.0.0.5::10.0.0.1:255.255.255.0::enp1s0:none",
                "ip=10.0.1.5:::255.255.255.0::enp1s0:none",
                "ip=[2001:db8::5]::[2001:db8::1]:64::enp1s0:none",
                "nameserver=10.0.0.2",
                "nameserver=2001:db8::53",
            ],
        ),
        (
            [{"match": {"mac": "52:54:00:00:00:99"}, "dhcp": True}],
            ["ifname=net0:52:54:00:00:00:99", "ip=net0:dhcp"],
        ),
    ],
)
def test_the_initrd_gets_the_same_network(given: Any, wanted: list[str]) -> None:
    assert list(initrd_network(network(given), NAMES)) == ["rd.neednet=1", *wanted]


def test_the_installed_system_matches_a_port_by_its_permanent_mac() -> None:
    files = {str(file.path): file.content.decode() for file in networkd(network([STATIC]))}
    assert files["/etc/systemd/network/10-bedplate-0.network"] == (
        "[Match]\nPermanentMACAddress=52:54:00:12:34:56\n\n"
        "[Network]\nDHCP=no\n"
        "Address=10.0.0.5/24\nAddress=10.0.1.5/24\nAddress=2001:db8::5/64\n"
        "Gateway=10.0.0.1\nGateway=2001:db8::1\nDNS=10.0.0.2\nDNS=2001:db8::53\n"
    )


def test_every_wired_port_means_no_bridge_and_no_vlan() -> None:
    text = networkd(network({"dhcp": True}))[0].content.decode()
    assert "[Match]\nType=ether\nKind=!*\n" in text
    assert "DHCP=yes\n" in text
    assert "[DHCPv4]\nClientIdentifier=mac\n" in text


def test_an_unused_port_does_not_fail_the_boot() -> None:
    files = {str(file.path): file.content.decode() for file in networkd(network({"dhcp": True}))}
    drop_in = files["/etc/systemd/system/systemd-networkd-wait-online.service.d/10-bedplate.conf"]
    assert drop_in.endswith("systemd-networkd-wait-online --any\n")
    assert "\nExecStart=\nExecStart=" in drop_in


def test_what_the_initrd_made_of_the_command_line_is_not_made_again() -> None:
    """systemd-network-generator of systemd 252 fails where its file is there."""
    files = {str(file.path): file.content.decode() for file in networkd(network({"dhcp": True}))}
    drop_in = files["/etc/systemd/system/systemd-network-generator.service.d/10-bedplate.conf"]
    assert drop_in == "[Unit]\nConditionDirectoryNotEmpty=!/run/systemd/network\n"


TWO = [{"mac": "52:54:00:12:34:56"}, {"mac": "52:54:00:12:34:57"}]
BOND = {"ports": TWO, "mode": "802.3ad"}
TRUNK = [
    {"bond": BOND, "vlan": 42, "addresses": ["192.0.2.7/24"], "gateway": "192.0.2.1"},
    {"bond": BOND, "vlan": 43, "dhcp": True},
]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            TRUNK,
            [
                "ifname=enp1s0:52:54:00:12:34:56",
                "ifname=net0:52:54:00:12:34:57",
                "bond=bond0:enp1s0,net0:mode=802.3ad,miimon=100",
                "vlan=vlan42:bond0",
                "ip=192.0.2.7::192.0.2.1:255.255.255.0::vlan42:none",
                "vlan=vlan43:bond0",
                "ip=vlan43:dhcp",
            ],
        ),
        (
            {"bond": {"name": "uplink", "ports": [{"name": "eno1"}]}, "dhcp": "ipv4"},
            ["bond=uplink:eno1:mode=active-backup,miimon=100", "ip=uplink:dhcp"],
        ),
        (
            [
                {"match": {"name": "eno1"}, "vlan": 7, "dhcp": True},
                {"match": {"name": "eno1"}, "addresses": ["192.0.2.7/24"]},
            ],
            ["vlan=vlan7:eno1", "ip=vlan7:dhcp", "ip=192.0.2.7:::255.255.255.0::eno1:none"],
        ),
    ],
)
def test_bonds_and_vlans_are_made_before_they_have_addresses(given: Any, wanted: list[str]) -> None:
    assert list(initrd_network(network(given), NAMES)) == ["rd.neednet=1", *wanted]


def written(given: Any) -> dict[str, str]:
    start = "/etc/systemd/network/10-bedplate-"
    files = {str(file.path): file.content.decode() for file in networkd(network(given))}
    return {
        path.removeprefix(start): text
        for path, text in files.items()
        if start in path and not path.endswith(".link")
    }


def test_a_bond_is_not_called_after_the_port_whose_address_it_has() -> None:
    """`ifname=` becomes a .link file that fits whatever has this MAC address."""
    files = {str(file.path): file.content.decode() for file in networkd(network(TRUNK))}
    for name in ("bond0", "vlan42", "vlan43"):
        assert files[f"/etc/systemd/network/10-bedplate-{name}.link"] == (
            f"[Match]\nOriginalName={name}\n\n[Link]\nNamePolicy=keep\nMACAddressPolicy=none\n"
        )
    assert BY_NETWORKD.in_initrd(network(TRUNK)) == tuple(
        path for path in files if path.startswith("/etc/systemd/network/")
    )
    assert BY_NETWORKD.in_initrd(network({"dhcp": True})) == ()


def test_a_bond_has_its_mode_its_ports_and_the_address_of_the_first() -> None:
    files = written({"bond": BOND, "dhcp": "ipv4"})
    assert files == {
        "0.network": (
            "[Match]\nName=bond0\n\n[Network]\nDHCP=ipv4\n\n[DHCPv4]\nClientIdentifier=mac\n"
        ),
        "bond0.netdev": (
            "[NetDev]\nName=bond0\nKind=bond\nMACAddress=52:54:00:12:34:56\n\n"
            "[Bond]\nMode=802.3ad\nMIIMonitorSec=100ms\n"
        ),
        "bond0-port0.network": (
            "[Match]\nPermanentMACAddress=52:54:00:12:34:56\n\n"
            "[Link]\nRequiredForOnline=no\n\n[Network]\nBond=bond0\n"
        ),
        "bond0-port1.network": (
            "[Match]\nPermanentMACAddress=52:54:00:12:34:57\n\n"
            "[Link]\nRequiredForOnline=no\n\n[Network]\nBond=bond0\n"
        ),
    }


def test_what_only_carries_vlans_is_up_and_has_no_address() -> None:
    files = written(TRUNK)
    assert files["0-carrier.network"] == (
        "[Match]\nName=bond0\n\n[Link]\nRequiredForOnline=no\n\n"
        "[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nVLAN=vlan42\nVLAN=vlan43\n"
    )
    assert files["vlan42.netdev"] == "[NetDev]\nName=vlan42\nKind=vlan\n\n[VLAN]\nId=42\n"
    assert files["0.network"].startswith("[Match]\nName=vlan42\n\n[Network]\nDHCP=no\n")
    assert files["1.network"].startswith("[Match]\nName=vlan43\n\n[Network]\nDHCP=yes\n")
    assert len(files) == 8


def test_a_card_with_an_address_of_its_own_can_carry_vlans_too() -> None:
    card = {"match": {"mac": "52:54:00:12:34:56"}}
    files = written([{**card, "vlan": 7, "dhcp": True}, {**card, "addresses": ["192.0.2.7/24"]}])
    assert files["1.network"].startswith(
        "[Match]\nPermanentMACAddress=52:54:00:12:34:56\n\n[Network]\nVLAN=vlan7\nDHCP=no\n"
    )
    assert sorted(files) == ["0.network", "1.network", "vlan7.netdev"]
