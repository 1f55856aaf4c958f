"""Which server is asked, what is told of the machine, and what is believed of the answers."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface
from typing import Any
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MachineError
from agent.find import CommandLine
from agent.foreman.address import (
    Server,
    configured,
    failed_beside,
    is_unattended,
    likely_card,
    named_facts,
    network_booted,
    shown,
    who_we_are,
)
from agent.foreman.facts import DROPPED, facts, has_address
from agent.foreman.order import REBOOT, kexec_order
from agent.foreman.standing import Standing, judge
from agent.inventory.model import Disk, Dmi, Firmware, Inventory, Nic, Tpm

MAC = "52:54:00:00:00:02"
FOREMAN = Server("https://foreman.example.com")
MACHINE = Inventory(
    firmware=Firmware(uefi=True, secure_boot=True),
    memory=4 << 30,
    cpus=8,
    tpm=Tpm(device="/dev/tpmrm0"),
    dmi=Dmi(vendor="Example", product="Server", serial="CZ1234"),
    disks=(
        Disk(path="/dev/nvme0n1", size=400 * 10**9, model="Fast 9"),
        Disk(path="/dev/sda", size=8 << 30, removable=True),
        Disk(path="/dev/sdb", size=8 << 30, boot_medium=True),
    ),
    nics=(
        Nic(name="eno1", mac="52:54:00:00:00:01"),
        Nic(name="eno2.100", mac=MAC, carrier=True, addresses=("192.0.2.7/23", "2001:db8::7/64")),
    ),
)
ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(lambda a: f"{a}/24"), st.ip_addresses(v=6).map(lambda a: f"{a}/64")
)
NICS = st.builds(
    Nic,
    name=st.from_regex("[a-z]{2,4}[0-9]{1,2}(\\.[0-9]{1,4})?", fullmatch=True),
    mac=st.from_regex("52(:[0-9a-f]{2}){5}", fullmatch=True),
    carrier=st.booleans(),
    addresses=st.lists(ADDRESSES, max_size=3).map(tuple),
)
MACHINES = st.builds(
    Inventory,
    firmware=st.builds(Firmware, uefi=st.booleans()),
    memory=st.integers(1, 1 << 50),
    nics=st.lists(NICS, min_size=1, max_size=4, unique_by=lambda nic: nic.name).map(tuple),
    disks=st.lists(
        st.builds(Disk, path=st.sampled_from(["/dev/sda", "/dev/nvme0n1"]), size=st.integers(0)),
        max_size=2,
        unique_by=lambda disk: disk.path,
    ).map(tuple),
)


def line(text: str) -> CommandLine:
    return CommandLine.parse(text)


# --- addresses ---


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("bedplate.foreman=https://f.example.com/", Server("https://f.example.com")),
        ("foreman.url=https://f.example.com", Server("https://f.example.com")),
        ("proxy.url=https://p.example.com:9090", Server("https://p.example.com:9090", True)),
        ("proxy.url=https://f.example.com proxy.type=foreman", Server("https://f.example.com")),
        ("foreman.url=https://p.x:8443 proxy.type=proxy", Server("https://p.x:8443", True)),
        ("proxy.url=https://p/ bedplate.foreman=https://f/", Server("https://f")),
        ("quiet proxy.type=foreman", None),
    ],
)
def test_the_server_is_named_as_for_foremans_own_discovery_image(
    text: str, server: Server | None
) -> None:
    assert configured(line(text)) == server


@pytest.mark.parametrize(
    "text",
    [
        "proxy.url=foreman.example.com",
        "bedplate.foreman=https://user:sesame@f/",
        "foreman.url=https://f/?token=sesame",
        "foreman.url=https://f:99999/",
        "foreman.url=https://f proxy.type=satellite",
        "foreman.url=",
    ],
)
def test_a_server_that_is_none_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(MachineError, match="kernel command line: ") as caught:
        configured(line(text))
    assert "sesame" not in str(caught.value)


@given(st.text())
def test_any_command_line_names_a_server_none_or_a_mistake(text: str) -> None:
    for name in ("foreman.url", "proxy.url", "proxy.type", "bedplate.foreman"):
        try:
            found = configured(CommandLine((f"{name}={text}", "foreman.url=https://f")))
        except MachineError:
            continue
        assert found is not None
        assert found.owns(found.base + "/x") or name == "proxy.type"


def test_foreman_and_proxy_have_facts_and_plans_at_their_own_places() -> None:
    proxy = Server("https://p:9090", proxy=True)
    assert FOREMAN.facts_url == "https://foreman.example.com/api/v2/discovered_hosts/facts"
    assert proxy.facts_url == "https://p:9090/discovery/create"
    assert proxy.plan_url(MAC) == f"https://p:9090/unattended/provision?mac={MAC}"


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("https://foreman.example.com/unattended/provision?token=1", True),
        ("https://foreman.example.com:443/", True),
        ("https://FOREMAN.example.com/", True),
        ("http://foreman.example.com/", False),
        ("https://foreman.example.com:8443/", False),
        ("https://foreman.example.com.evil.org/", False),
        ("https://foreman.example.com@evil.org/", False),
        ("https://evil.org#https://foreman.example.com/", False),
        ("https://user@foreman.example.com/", False),
        ("https://[::1/", False),
        ("file:///etc/passwd", False),
        ("", False),
    ],
)
def test_only_the_very_server_is_ours(url: str, ours: bool) -> None:
    assert FOREMAN.owns(url) is ours


def test_a_tokened_url_is_recognised_and_shown_without_its_query() -> None:
    url = "https://f.example.com/unattended/provision?token=sesame"
    assert is_unattended(url)
    assert not is_unattended("https://deploy.example.com/v1/plan?mac=x")
    assert shown(url) == "https://f.example.com/unattended/provision"
    assert failed_beside(url) == "https://f.example.com/unattended/failed?token=sesame"


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("BOOTIF=01-AA-bb-00-00-00-09", "aa:bb:00:00:00:09"),
        ("BOOTIF=01-52:54:00:00:00:01", "52:54:00:00:00:01"),
        ("fdi.pxmac=52:54:00:00:00:01", "52:54:00:00:00:01"),
        ("quiet", None),
    ],
)
def test_the_card_is_the_one_that_was_booted_from(text: str, mac: str | None) -> None:
    assert network_booted(line(text)) == mac


def test_else_it_is_one_with_an_address_then_one_with_a_cable_then_any() -> None:
    def likely(*cards: Nic) -> str | None:
        return likely_card(MACHINE.model_copy(update={"nics": cards}))

    bare, cable = Nic(name="a", mac="02::1"), Nic(name="b", mac="02::2", carrier=True)
    known = Nic(name="c", mac="02::3", addresses=("192.0.2.1/24",))
    assert likely(bare, cable, known) == known.mac
    assert likely(bare, cable) == cable.mac
    assert likely(bare) == bare.mac
    assert likely() is None


def test_every_card_is_named_the_booted_one_as_number_0() -> None:
    assert who_we_are(MACHINE, MAC) == {
        "X-RHN-Provisioning-MAC-0": f"eno2.100 {MAC}",
        "X-RHN-Provisioning-MAC-1": "eno1 52:54:00:00:00:01",
    }


# --- facts ---


def test_facts_have_what_discovery_insists_on_flat_and_structured() -> None:
    told = facts(MACHINE, MAC, {"site": "fra1"})
    assert told["discovery_bootif"] == MAC
    assert (told["interfaces"], told["macaddress_eno2_100"]) == ("eno1,eno2_100", MAC)
    assert (told["ipaddress_eno2_100"], told["netmask_eno2_100"]) == (
        "192.0.2.7",
        "255.255.254.0",
    )
    assert told["ipaddress6_eno2_100"] == "2001:db8::7"
    assert told["networking"]["interfaces"]["eno2.100"] == {
        "mac": MAC,
        "ip": "192.0.2.7",
        "netmask": "255.255.254.0",
        "network": "192.0.2.0",
        "ip6": "2001:db8::7",
        "netmask6": "ffff:ffff:ffff:ffff::",
    }
    assert int(told["facterversion"].split(".")[0]) >= 3
    assert (told["discovery_ip_cidr"], told["discovery_kexec"][:8]) == ("192.0.2.7/23", "bedplate")
    assert told["site"] == "fra1"


def test_disks_count_in_bytes_and_media_do_not_count() -> None:
    told = facts(MACHINE, MAC)
    sizes = [told[name] for name in told if name.startswith("blockdevice") and "size" in name]
    assert sizes == [400 * 10**9]
    assert told["memorysize_mb"] == 4096
    assert (told["serialnumber"], told["manufacturer"]) == ("CZ1234", "Example")


@given(MACHINES, st.data())
def test_of_any_machine_nothing_is_dropped_and_json_takes_it_all(
    machine: Inventory, data: st.DataObject
) -> None:
    mac = data.draw(st.sampled_from(machine.nics)).mac
    told = facts(machine, mac)
    assert not [name for name in told if DROPPED.search(name)]
    assert json.loads(json.dumps(told)) == told
    with_it = [nic for nic in machine.nics if nic.mac == mac and nic.addresses]
    assert has_address(machine, mac) is bool(with_it)
    if with_it:
        card = told["networking"]["interfaces"][with_it[0].name]
        assert card["mac"] == mac
        assert "ip" in card or "ip6" in card
    for nic in machine.nics:
        four = told["networking"]["interfaces"][nic.name].get("ip")
        assert four is None or any(
            str(IPv4Interface(one).ip) == four for one in nic.addresses if ":" not in one
        )


def test_facts_of_the_command_line_are_taken_in_pairs() -> None:
    text = "fdi.pxfactname1=site fdi.pxfactvalue1=fra1 fdi.pxfactname2=lost fdi.pxfactname99=z"
    assert named_facts(line(f"{text} fdi.pxfactvalue99=")) == {"site": "fra1", "z": ""}


# --- answers ---


@pytest.mark.parametrize(
    ("status", "text", "standing", "managed"),
    [
        (200, "version: 1", Standing.PLAN, True),
        (401, "provisioning token for host db01 expired", Standing.WAITING, True),
        (404, "unable to find a host that matches the request", Standing.UNKNOWN, False),
        (404, "unable to find provision template for db01 running Debian", Standing.WAITING, True),
        (405, "", Standing.WAITING, True),
        (409, "", Standing.WAITING, True),
        (500, "There was an error rendering the X template: y", Standing.WAITING, True),
        (500, "We're sorry, but something went wrong", Standing.LATER, False),
        (502, "", Standing.LATER, False),
        (429, "", Standing.LATER, False),
        (403, "", Standing.REFUSED, False),
        (302, "", Standing.REFUSED, False),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int, text: str, standing: Standing, managed: bool) -> None:
    judgement = judge(status, text, token=False)
    assert (judgement.standing, judgement.managed) == (standing, managed)
    assert judgement.words or standing is Standing.PLAN


@given(st.integers(100, 599), st.text())
def test_any_answer_means_something_on_one_line(status: int, text: str) -> None:
    words = judge(status, text, token=True).words
    assert not [letter for letter in words if category(letter) in {"Cc", "Cs", "Zl", "Zp"}]
    assert len(words) < 1000


# --- orders ---

OURS = "https://foreman.example.com/unattended/provision?token=1"


def order(document: Any) -> tuple[str | None, str]:
    found = kexec_order(json.dumps(document).encode(), FOREMAN)
    return (found.plan.text if found.plan else None), found.problem


def test_an_order_names_the_plan_itself_or_in_the_kernels_options() -> None:
    assert order({"plan_url": OURS}) == (OURS, "")
    assert order({"append": f"quiet bedplate.plan={OURS} x"}) == (OURS, "")
    assert (REBOOT.plan, REBOOT.problem) == (None, "")


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"plan_url": OURS.replace("https", "http")}, "only https://foreman.example.com is asked"),
        ({"plan_url": "https://foreman.example.com/pub/plan.yaml"}, "only https://foreman"),
        ({"append": "quiet"}, "names no plan"),
        ({"append": 3}, "names no plan"),
        ({"status": "Unable to render: x"}, "Foreman has no order: Unable to render: x"),
        ("text", "is not a JSON object"),
    ],
)
def test_what_is_no_order_of_this_foreman_is_refused_with_the_reason(
    document: Any, problem: str
) -> None:
    plan, said = order(document)
    assert plan is None
    assert problem in said


def test_the_token_of_a_refused_order_is_not_in_the_reason() -> None:
    _, said = order({"plan_url": "https://evil.example.com/unattended/provision?token=sesame"})
    assert "evil.example.com" in said
    assert "sesame" not in said


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.text(max_size=20) | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["plan_url", "append", "status", "kernel"]), inner, max_size=4
                )
            ),
        ).map(lambda document: json.dumps(document).encode()),
    )
)
def test_any_body_is_an_order_of_ours_or_a_reason(body: bytes) -> None:
    found = kexec_order(body, FOREMAN)
    assert bool(found.problem) is not bool(found.plan)
    assert found.plan is None or FOREMAN.owns(found.plan.text)
