"""The kernel command line as networkd's files: what each option comes to, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network.translate import translate
from agent.network.wished import READERS

MAC = "52:54:00:12:34:56"
BOOTIF = "BOOTIF=01-52-54-00-12-34-56"


def files(text: str) -> dict[str, list[str]]:
    """Return the lines of each file; every option must have been understood."""
    found = translate(text)
    assert found.problems == ()
    return {name: content.splitlines() for name, content in found.files.items()}


def refused(text: str) -> str:
    (problem,) = translate(text).problems
    return str(problem)


def test_nothing_asked_leaves_the_image_as_it_is() -> None:
    assert files("quiet console=ttyS0 root=/dev/sda ipv6.disable=0") == {}


@pytest.mark.parametrize(
    ("value", "dhcp", "advertised"),
    [
        ("dhcp", "ipv4", "yes"),
        ("on", "yes", "yes"),
        ("dhcp6", "ipv6", "yes"),
        ("auto6", "no", "yes"),
        ("link6", "no", "no"),
    ],
)
def test_a_method_alone_is_for_every_card(value: str, dhcp: str, advertised: str) -> None:
    (lines,) = files(f"ip={value}").values()
    assert {"Type=ether", "Kind=!*", f"DHCP={dhcp}", f"IPv6AcceptRA={advertised}"} <= set(lines)


def test_what_foreman_says_of_a_static_host_is_understood() -> None:
    found = files("ip=192.0.2.5::192.0.2.1:255.255.255.0:db01:ens3:none nameserver=192.0.2.53")
    lines = found["60-ens3.network"]
    for line in ("Name=ens3", "Address=192.0.2.5/24", "Gateway=192.0.2.1", "DNS=192.0.2.53"):
        assert line in lines
    assert "DHCP=no" in lines
    assert "GatewayOnLink=yes" not in lines


def test_an_ipv6_address_stands_in_brackets() -> None:
    text = "ip=[2001:db8::5]::[2001:db8::1]:64:db01:ens3:none nameserver=[2001:db8::53]"
    lines = files(text)["60-ens3.network"]
    for line in ("Address=2001:db8::5/64", "Gateway=2001:db8::1", "DNS=2001:db8::53"):
        assert line in lines


def test_both_families_meet_on_one_interface() -> None:
    text = "ip=192.0.2.5::192.0.2.1:24::ens3:none ip=[2001:db8::5]::[fe80::1]:64::ens3:none"
    lines = files(text)["60-ens3.network"]
    assert [line for line in lines if line.startswith("Address=")] == [
        "Address=192.0.2.5/24",
        "Address=2001:db8::5/64",
    ]


def test_a_gateway_beyond_the_network_is_reached_on_the_link() -> None:
    lines = files("ip=192.0.2.5::198.51.100.1:32::ens3:none")["60-ens3.network"]
    assert "GatewayOnLink=yes" in lines


def test_the_last_fields_are_name_servers_or_mtu_and_mac() -> None:
    dns = files("ip=192.0.2.5::192.0.2.1:24::ens3:none:192.0.2.53:192.0.2.54")["60-ens3.network"]
    assert {"DNS=192.0.2.53", "DNS=192.0.2.54"} <= set(dns)
    other = files(f"ip=ens3:dhcp:9000:{MAC}")["60-ens3.network"]
    assert {"MTUBytes=9000", f"MACAddress={MAC}"} <= set(other)


@pytest.mark.parametrize(
    "option", ["nameserver=192.0.2.53", "rd.peerdns=0", "fdi.dns_search=a.example"]
)
def test_what_is_said_of_dns_alone_leaves_dhcp_on(option: str) -> None:
    (lines,) = files(option).values()
    assert "DHCP=yes" in lines


def test_the_card_that_was_booted_from_is_preferred_and_the_others_stay_up() -> None:
    found = files(BOOTIF)
    assert list(found) == ["65-boot.network"]
    lines = found["65-boot.network"]
    assert {f"PermanentMACAddress={MAC}", "DHCP=yes", "RouteMetric=512"} <= set(lines)


@pytest.mark.parametrize("value", ["01-52-54-00-12-34-56", "01-52:54:00:12:34:56", MAC.upper()])
def test_bootif_is_read_as_every_loader_writes_it(value: str) -> None:
    assert f"PermanentMACAddress={MAC}" in files(f"BOOTIF={value}")["65-boot.network"]


def test_an_address_without_interface_is_for_the_card_that_was_booted_from() -> None:
    found = files(f"ip=192.0.2.5::192.0.2.1:24:db01::none {BOOTIF}")
    assert "Address=192.0.2.5/24" in found["65-boot.network"]
    assert sum("Address=192.0.2.5/24" in lines for lines in found.values()) == 1


def test_a_vlan_takes_its_number_in_decimal_and_its_parent_no_address() -> None:
    found = files("vlan=eth0.0010:eth0 ip=eth0.0010:dhcp")
    assert "Id=10" in found["60-eth0.0010.netdev"]
    assert "VLAN=eth0.0010" in found["60-eth0.network"]
    assert "DHCP=ipv4" not in found["60-eth0.network"]
    assert "DHCP=ipv4" in found["60-eth0.0010.network"]


def test_a_vlan_on_a_bond_of_two_cards() -> None:
    bond = "bond=bond0:eth0,eth1:mode=802.3ad,miimon=50,lacp_rate=1:9000"
    text = f"{bond} vlan=vlan7:bond0 ip=vlan7:dhcp"
    found = files(text)
    assert {"Mode=802.3ad", "MIIMonitorSec=50ms", "LACPTransmitRate=fast", "MTUBytes=9000"} <= set(
        found["60-bond0.netdev"]
    )
    assert "Bond=bond0" in found["60-eth0.network"]
    assert "Bond=bond0" in found["60-eth1.network"]
    assert "VLAN=vlan7" in found["60-bond0.network"]
    assert "DHCP=yes" not in found["60-bond0.network"]


def test_a_bond_is_watched_and_asks_for_an_address_where_nothing_is_said() -> None:
    found = files("bond=bond0:eth0,eth1:mode=1,primary=eth1")
    assert {"Mode=active-backup", "MIIMonitorSec=100ms"} <= set(found["60-bond0.netdev"])
    assert "PrimarySlave=yes" in found["60-eth1.network"]
    assert "PrimarySlave=yes" not in found["60-eth0.network"]
    assert "DHCP=yes" in found["60-bond0.network"]


def test_a_route_goes_to_the_interface_that_reaches_its_gateway() -> None:
    text = (
        "ip=192.0.2.5::192.0.2.1:24::eth0:none ip=198.51.100.5:::24::eth1:none "
        "rd.route=10.0.0.0/255.0.0.0:198.51.100.9 rd.route=[2001:db8:7::/48]:[fe80::9]:eth0"
    )
    found = files(text)
    assert "Destination=10.0.0.0/8" in found["60-eth1.network"]
    assert "Destination=10.0.0.0/8" not in found["60-eth0.network"]
    assert "Destination=2001:db8:7::/48" in found["60-eth0.network"]


def test_a_card_gets_the_name_that_it_is_called_by() -> None:
    found = files(f"ifname=boot0:{MAC} ip=boot0:dhcp")
    assert {f"PermanentMACAddress={MAC}", "Name=boot0"} <= set(found["60-boot0.link"])


def test_a_discovery_image_s_options_mean_the_same_here() -> None:
    text = (
        "fdi.pxmac=52-54-00-12-34-56 fdi.pxip=192.0.2.5/24 fdi.pxgw=192.0.2.1 fdi.pxdns=192.0.2.53"
    )
    lines = files(text)["65-boot.network"]
    assert {f"PermanentMACAddress={MAC}", "Address=192.0.2.5/24", "Gateway=192.0.2.1"} <= set(lines)
    assert "DNS=192.0.2.53" in lines
    vlan = files(f"{text} fdi.vlan.primary=7")
    assert "VLAN=vlan7" in vlan["65-boot.network"]
    assert "Address=192.0.2.5/24" in vlan["60-vlan7.network"]
    assert "Address=192.0.2.5/24" not in vlan["65-boot.network"]


def test_a_vlan_without_address_asks_for_one() -> None:
    found = files(f"{BOOTIF} fdi.vlan.primary=7")
    assert "DHCP=yes" in found["60-vlan7.network"]


def test_all_but_the_boot_card_are_left_alone_when_that_is_asked_for() -> None:
    found = files(f"{BOOTIF} fdi.initnet=bootif")
    assert "Unmanaged=yes" in found["69-wired.network"]
    assert "DHCP=yes" in found["65-boot.network"]


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("ip=bogus", "ip=bogus: bogus: must be one of any, auto6, dhcp"),
        ("ip=eth0:dhpc", "ip=eth0:dhpc: must be METHOD, INTERFACE:METHOD or"),
        ("ip=192.0.2.5::192.0.2.1:255.0.255.0::eth0:none", "255.0.255.0: is not a netmask of"),
        ("ip=192.0.2.500::192.0.2.1:24::eth0:none", "192.0.2.500: is not the address of a machine"),
        ("ip=192.0.2.5::[2001:db8::1]:24::eth0:none", "gateway 2001:db8::1 is not of the family"),
        ("ip=[2001:db8::5::eth0:none", "bracket that is not closed"),
        ("ip=::::db01:eth0:none", "has neither an address nor a method"),
        ("ip=eth0:ibft", "METHOD"),
        ("ip=ibft", "what the firmware set up for iSCSI is not read"),
        ("nameserver=ns1.example.com", "nameserver=ns1.example.com: ns1.example.com: is not the"),
        ("vlan=eth0.5", "must be NAME:INTERFACE"),
        ("vlan=storage:eth0", "storage: must end with the number of a VLAN"),
        ("vlan=eth0.4095:eth0", "must end with the number of a VLAN (1 to 4094)"),
        ("bond=bond0", "bond=bond0: names no ports"),
        ("bond=bond0:eth0,eth1:mode=lacp", "mode=lacp: must be one of balance-rr"),
        ("bond=bond0:eth0,eth1:mod=1", "bond=bond0: mod=1: is not known"),
        (
            "bond=bond0:eth0,eth1:mode=1,primary=eth2",
            "primary=eth2: is none of its ports, eth0, eth1",
        ),
        ("bond=bond0:eth* ip=bond0:dhcp", "eth*: is not the name of a network interface"),
        ("team=team0:eth0,eth1", "bond= does the same"),
        ("rd.route=10.0.0.0/8", "must be NET/PREFIX:GATEWAY"),
        ("BOOTIF=eth0", "BOOTIF=eth0: eth0: is not a MAC address"),
        ("fdi.pxip=192.0.2.5/99", "fdi.pxip=192.0.2.5/99: 192.0.2.5/99: is not an address"),
        ("fdi.vlan.primary=eth0", "must be the number of a VLAN"),
        ("fdi.initnet=none", "must be all or bootif"),
    ],
)
def test_what_is_wrong_is_said_with_the_option_as_it_was_given(option: str, why: str) -> None:
    assert why in refused(option)
    assert refused(option).startswith("kernel command line: ")


def test_one_wrong_option_does_not_take_the_others_with_it() -> None:
    found = translate(f"ip=bogus ip=192.0.2.5::192.0.2.1:24::eth0:none vlan=x:eth0 {BOOTIF}")
    assert "Address=192.0.2.5/24" in found.files["60-eth0.network"]
    assert len(found.problems) == 2


def test_an_interface_made_or_used_twice_is_named() -> None:
    assert "eth0: is a port of bond1 and of another" in refused("bond=bond0:eth0 bond=bond1:eth0")
    assert "b0: is made by two options" in refused("bond=b0:eth0 bridge=b0:eth1")


def test_a_card_that_is_not_there_is_named_with_those_that_are() -> None:
    found = translate("bond=bond0:eth0,ens4 ip=bond0:dhcp")
    (doubt,) = found.doubts({"ens3": MAC, "ens4": "52:54:00:12:34:57"})
    assert str(doubt) == (
        f"kernel command line: eth0: there is no such network card; "
        f"there are ens3 ({MAC}), ens4 (52:54:00:12:34:57)"
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*READERS, "fdi.pxip", "fdi.pxgw", "fdi.pxmac", "fdi.vlan.primary"]),
            st.text("0123456789abcdefint.:[]/,=-dhcp ", max_size=30),
        ),
        max_size=5,
    )
)
def test_whatever_is_said_ends_in_files_and_named_problems(said: list[tuple[str, str]]) -> None:
    found = translate(" ".join(f"{name}={value}" for name, value in said))
    for name, text in found.files.items():
        assert "/" not in name
        section = ""
        for line in text.splitlines():
            section = line if line.startswith("[") else section
            assert line == "" or line.startswith(("#", "[")) or ("=" in line and section)


def test_it_is_imported_without_anything_but_the_standard_library() -> None:
    program = (
        "import sys, agent.network.__main__\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('pydantic', 'requests', 'yaml')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
