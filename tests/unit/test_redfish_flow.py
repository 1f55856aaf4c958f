"""What is done with a machine, in which order, and what is left behind when it goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.errors import MachineError, Problem, StepError
from agent.plan.model import Finish
from agent.redfish.following import UnheardError
from agent.redfish.installing import Order, Patience, install
from agent.redfish.slot import Slot
from agent.report.event import Event, State
from tests.unit.report.receivers import event

ISO = "http://192.0.2.1/live.iso"
QUICK = Patience(callback=0.05, whole=0.1, look=0.001, shutdown=0.05)
PATIENT = Patience(look=0.001)


class FakeBmc:
    """A BMC whose power is as `power` says, one answer a look; the last one stays."""

    system = "rig"

    def __init__(self, power: list[bool | None] | None = None) -> None:
        self.power = power or [True]
        self.done: list[str] = []
        self.broken: set[str] = set()

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what in self.broken:
            raise MachineError([Problem("bmc", f"{what}: refused")])

    def insert(self, url: str) -> Slot:
        self._do("insert")
        return Slot("Cd", "system", url, True)

    def eject(self) -> list[str]:
        self._do("eject")
        return [ISO]

    def boot_from_cd_once(self) -> None:
        self._do("boot from cd")

    def boot_from_disk(self) -> None:
        self._do("boot from disk")

    def start(self) -> str:
        self._do("start")
        if "boot from disk" in self.done:
            self.power = [True]
        return "powered on"

    def is_on(self) -> bool:
        state = self.power.pop(0) if len(self.power) > 1 else self.power[0]
        if state is None:
            raise MachineError([Problem("bmc", "busy")])
        return state


class FakeServer:
    """A deploy server that says what it is given, one answer a question; then nothing more."""

    def __init__(self, finish: Finish, *answers: list[Event] | str) -> None:
        self._finish, self._answers = finish, iter(answers)

    def finish(self) -> Finish:
        return self._finish

    def start_listening(self) -> None:
        """Everything is news."""

    def news(self) -> list[Event]:
        answer = next(self._answers, [])
        if isinstance(answer, str):
            raise UnheardError(answer)
        return answer


def said_to(server: FakeServer, bmc: FakeBmc, patience: Patience = PATIENT) -> Iterator[str]:
    """Run an installation that is followed; yield how it ended and what was said."""
    said: list[str] = []
    yield install(bmc, Order(ISO, True, server), patience, said.append, list[Event]().append)
    yield from said


INSTALLED = event(9, State.FINISHED, step="install", evidence={"state": "installed"})
FAILED = event(9, State.FAILED, step="install", message="root: too small")


def test_a_plan_that_reboots_is_left_to_its_own_reboot() -> None:
    bmc = FakeBmc()
    outcome, *_ = said_to(FakeServer("reboot", [], [INSTALLED]), bmc)
    assert outcome == "installed"
    assert bmc.done == ["insert", "boot from cd", "start", "eject", "boot from disk"]


def test_a_plan_that_powers_off_is_switched_on_once_the_image_is_out_and_the_power_gone() -> None:
    bmc = FakeBmc([True, None, True, False])
    outcome, *said = said_to(FakeServer("poweroff", [INSTALLED]), bmc)
    assert outcome == "installed"
    assert bmc.done[-3:] == ["eject", "boot from disk", "start"]
    assert said[-1] == "rig: powered on, boots its disk"


def test_a_machine_that_never_goes_off_is_said_and_not_switched() -> None:
    bmc = FakeBmc([True])
    outcome, *said = said_to(FakeServer("poweroff", [INSTALLED]), bmc, QUICK)
    assert outcome == "installed"
    assert bmc.done.count("start") == 1
    assert "is still on" in said[-1]


def test_a_failed_installation_is_quoted_after_the_image_was_taken_out() -> None:
    bmc = FakeBmc()
    with pytest.raises(StepError, match="machine: not installed: root: too small"):
        list(said_to(FakeServer("poweroff", [FAILED]), bmc))
    assert bmc.done[-2:] == ["eject", "boot from disk"]
    assert bmc.done.count("start") == 1


def test_a_server_that_is_away_for_a_while_is_asked_again_and_said_once() -> None:
    server = FakeServer("reboot", "server: away", "server: away", [INSTALLED])
    outcome, *said = said_to(server, FakeBmc())
    assert outcome == "installed"
    assert [line for line in said if "away" in line] == ["server: away; asking again"]


def test_a_server_that_stays_away_is_the_reason_that_is_given() -> None:
    server = FakeServer("reboot", *["server: away"] * 10_000)
    with pytest.raises(StepError, match="deploy server cannot be asked: server: away"):
        list(said_to(server, FakeBmc(), QUICK))


def test_a_silent_machine_that_is_off_is_said_to_be_off() -> None:
    with pytest.raises(StepError, match="the BMC says that it is off"):
        list(said_to(FakeServer("reboot"), FakeBmc([False]), QUICK))


def test_a_machine_that_began_and_fell_silent_is_waited_for_to_the_end_of_patience() -> None:
    server = FakeServer("reboot", [event(1, State.STARTED)])
    with pytest.raises(StepError, match="not done after"):
        list(said_to(server, FakeBmc(), QUICK))


def test_a_machine_that_was_installed_already_is_told_apart() -> None:
    already = event(9, State.FINISHED, step="install", evidence={"state": "already installed"})
    outcome, *_ = said_to(FakeServer("poweroff", [already]), FakeBmc())
    assert outcome == "already installed"


def test_without_a_server_the_end_is_the_power_going_off_after_it_was_on() -> None:
    bmc, said = FakeBmc([False, None, True, True, False]), list[str]()
    outcome = install(bmc, Order(ISO, True), PATIENT, said.append, list[Event]().append)
    assert outcome == "powered off"
    assert bmc.done[-3:] == ["eject", "boot from disk", "start"]


def test_stay_off_leaves_it_off() -> None:
    bmc = FakeBmc([True, False])
    install(bmc, Order(ISO, True, stay_off=True), PATIENT, str, list[Event]().append)
    assert bmc.done.count("start") == 1


def test_a_machine_that_does_not_come_on_is_named() -> None:
    with pytest.raises(StepError, match="still off"):
        install(FakeBmc([False]), Order(ISO, True), QUICK, str, list[Event]().append)


def test_a_boot_that_cannot_be_set_leaves_no_image_behind() -> None:
    bmc = FakeBmc()
    bmc.broken.add("boot from cd")
    with pytest.raises(MachineError, match="boot from cd: refused"):
        install(bmc, Order(ISO, False), QUICK, str, list[Event]().append)
    assert bmc.done == ["insert", "boot from cd", "eject"]


def test_an_image_that_cannot_be_taken_out_does_not_undo_the_installation() -> None:
    bmc, said = FakeBmc(), list[str]()
    bmc.broken.add("eject")
    server = FakeServer("reboot", [INSTALLED])
    outcome = install(bmc, Order(ISO, True, server), PATIENT, said.append, list[Event]().append)
    assert outcome == "installed"
    assert "take the image out by `bedplate redfish eject`" in said[-1]
