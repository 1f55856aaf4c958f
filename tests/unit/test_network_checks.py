"""The network that a plan configures: its cards are there, and the initrd can make it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from agent.checks.foreseen import foreseen
from agent.checks.network import CardsThere, ReachesTang
from agent.inventory.model import Inventory
from agent.machine import Machine
from agent.plan.configure import Configure
from agent.plan.network import Interface
from tests.unit.fakes import SERVER, plan
from tests.unit.target.test_check import manifest
from tests.unit.target.test_family import WORDS

NO_PORTS = cast(Machine, None)
"""The checks ask the plan, the inventory and the manifest, and nobody else."""
CARD = SERVER.nics[0].mac
ABSENT = "52:54:00:99:99:99"
BOND = {"bond": {"ports": [{"mac": CARD}, {"mac": ABSENT}]}}
INITRAMFS_TOOLS = (WORDS - {"dracut"}) | {"update-initramfs"}


def network(given: Any) -> tuple[Interface, ...]:
    return Configure.model_validate({"network": given}).network


def told(given: Any, machine: Inventory = SERVER) -> list[str]:
    return list(map(str, CardsThere(network(given), machine).problems(NO_PORTS)))


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"match": {"mac": ABSENT}, "dhcp": True}, "configure.network[0].match.mac"),
        ([{**BOND, "dhcp": True}], "configure.network[0].bond.ports[1].mac"),
        (
            [{**BOND, "vlan": 5, "dhcp": True}, {**BOND, "vlan": 6, "dhcp": True}],
            "configure.network[0].bond.ports[1].mac",
        ),
    ],
)
def test_a_card_that_is_not_there_is_named_once_with_those_that_are(given: Any, where: str) -> None:
    assert told(given) == [f"{where}: no card has {ABSENT}; this machine has {CARD} (eth0)"]


def test_cards_by_name_and_every_card_are_the_installed_systems_matter() -> None:
    assert told({"dhcp": True}) == []
    assert told({"match": {"name": "eno1"}, "dhcp": True}) == []
    assert told({"match": {"mac": CARD}, "dhcp": True}) == []


def test_a_preview_knows_it_by_a_record_and_not_by_facts_which_may_not_have_every_card() -> None:
    wanted = plan(configure={"network": {"match": {"mac": ABSENT}, "dhcp": True}})
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert [one.where for one in foreseen(wanted, SERVER, now)] == [
        "configure.network[0].match.mac"
    ]
    facts = SERVER.model_copy(update={"unknown": ("its memory",)})
    assert list(foreseen(wanted, facts, now)) == []


def refusals(words: set[str], given: Any) -> list[str]:
    check = ReachesTang(manifest(words), network(given))
    return [str(problem) for problem in check.problems(NO_PORTS)]


def test_initramfs_tools_cannot_ask_tang_through_a_bond_or_a_vlan() -> None:
    bond = {"bond": {"ports": [{"name": "eno1"}]}, "dhcp": True}
    (message,) = refusals(INITRAMFS_TOOLS, [{**bond, "vlan": 42}])
    assert message == (
        "configure.network: server starts by initramfs-tools, which makes no bond0, vlan42 before "
        "Tang is asked: take an image with dracut, or give Tang an interface of its own"
    )
    assert refusals(WORDS, [{**bond, "vlan": 42}]) == []
    assert refusals(INITRAMFS_TOOLS, [bond, {"match": {"name": "eno2"}, "dhcp": True}]) == []
    assert refusals(INITRAMFS_TOOLS, {"dhcp": True}) == []


def test_an_image_that_cannot_build_an_initrd_cannot_have_a_bond_in_it() -> None:
    bond = {"bond": {"ports": [{"name": "eno1"}]}, "dhcp": True}
    (message,) = refusals(WORDS - {"dracut"}, bond)
    assert "server has no dracut to build an initrd with bond0 in it" in message
    assert refusals(WORDS - {"dracut"}, {"dhcp": True}) == []
    by_command_line = (WORDS - {"dracut", "systemd-networkd"}) | {"NetworkManager"}
    assert refusals(by_command_line, bond) == []
