"""Where the plan comes from."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MachineError
from agent.find import CommandLine, Found, boot_mac, find_plan, plan_url
from agent.inventory.model import Dmi, Firmware, Inventory, Nic

MACHINE = Inventory(
    firmware=Firmware(uefi=True),
    memory=1,
    dmi=Dmi(serial="CZ 1", uuid=UUID(int=5)),
    nics=(Nic(name="a", mac="52:54:00:00:00:01"), Nic(name="b", mac="52:54:00:00:00:02")),
)


@dataclass
class Place:
    name: str
    plan: bytes | None

    def describe(self) -> str:
        return self.name

    def read(self) -> Found | None:
        return None if self.plan is None else Found(self.name, self.plan)


def test_the_first_place_that_has_a_plan_wins() -> None:
    found = find_plan([Place("cmdline", None), Place("credential", b"1"), Place("medium", b"2")])
    assert (found.where, found.content) == ("credential", b"1")


def test_without_a_plan_every_place_that_was_looked_at_is_named() -> None:
    with pytest.raises(MachineError, match="none found; looked at cmdline; medium"):
        find_plan([Place("cmdline", None), Place("medium", None)])


def test_the_last_value_on_the_command_line_counts_and_quotes_keep_spaces() -> None:
    line = CommandLine.parse('quiet a=1 bedplate.plan=http://x/ a="2 3" flag')
    assert line.value("a") == "2 3"
    assert line.has("flag")
    assert not line.has("fla")


@given(st.text())
def test_any_command_line_is_read_without_a_crash(text: str) -> None:
    CommandLine.parse(text).value("bedplate.plan")


def test_names_of_the_machine_are_filled_into_the_url() -> None:
    line = CommandLine.parse("bedplate.plan=http://x/{mac}/{serial}.yaml")
    assert plan_url(line, MACHINE) == "http://x/52:54:00:00:00:01/CZ%201.yaml"


def test_the_deploy_server_is_asked_with_every_name_boot_interface_first() -> None:
    line = CommandLine.parse("bedplate.server=http://x:8080/ BOOTIF=01-52-54-00-00-00-02")
    assert boot_mac(line) == "52:54:00:00:00:02"
    assert plan_url(line, MACHINE) == (
        "http://x:8080/v1/plan?mac=52%3A54%3A00%3A00%3A00%3A02&mac=52%3A54%3A00%3A00%3A00%3A01"
        "&serial=CZ%201&uuid=00000000-0000-0000-0000-000000000005"
    )


def test_without_our_options_there_is_no_url() -> None:
    assert plan_url(CommandLine.parse("quiet"), MACHINE) is None
