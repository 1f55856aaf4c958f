"""The rig's switched-on machine, with nothing but its firmware in it: the UEFI shell is the guest.

A few seconds each, so that a fault of the rig is not first met in the middle of an installation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu import disk, firmware
from qemu.disk import GiB, MiB
from qemu.errors import QemuDiedError, RigError, WaitTimeoutError
from qemu.machine import Drive, Machine
from qemu.saved import Saved
from qemu.tpm import Tpm
from qemu.vm import Vm

pytestmark = pytest.mark.machine

PROMPT = r"Shell> "


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that has no network card, or the firmware would try to boot from it first."""
    found = firmware.find()
    return Machine(
        name="rig-firmware",
        firmware=found,
        variables=found.new_variables(tmp_path / "variables.qcow2"),
        drives=(Drive("d0", disk.blank(tmp_path / "d0.qcow2", GiB)),),
        nics=(),
        memory=256 * MiB,
        tpm=Tpm.create(tmp_path / "tpm"),
    )


@pytest.fixture
def vm(machine: Machine) -> Iterator[Vm]:
    with Vm(machine) as vm:
        enter_shell(vm)
        yield vm
        vm.quit()


def enter_shell(vm: Vm) -> None:
    # It counts down before it shows its prompt, unless a key is pressed.
    vm.wait_for("any other key to continue", 90)
    vm.type(" ")
    vm.wait_for(PROMPT, 30)


def ask(vm: Vm, command: str, answer: str) -> str:
    """Type a command into the UEFI shell and wait for an answer."""
    since = vm.console.mark()
    vm.type(f"{command}\r")
    return vm.wait_for(answer, 30, since=since).line


def test_disks_are_put_in_while_the_machine_runs_and_only_those_come_out(
    vm: Vm, tmp_path: Path
) -> None:
    vm.devices.plug(Drive("n0", disk.blank(tmp_path / "n0.qcow2", GiB), "nvme"))
    assert vm.devices.writes("n0") == vm.devices.writes("d0") == 0
    with pytest.raises(RigError, match="no such disk"):
        vm.devices.writes("n1")
    with pytest.raises(RigError, match="was not plugged in"):
        vm.devices.unplug("d0")


def test_a_saved_machine_goes_on_where_it_was_any_number_of_times(vm: Vm, tmp_path: Path) -> None:
    ask(vm, "set -v kept yes", PROMPT)
    saved = Saved.of(vm, tmp_path / "state")
    assert not vm.running
    with pytest.raises(RigError, match="one machine at a time"):  # this one is not closed yet
        Vm(saved.machine_for("rig-early", tmp_path / "early")).__enter__()
    vm.__exit__(None, None, None)
    for number in range(2):
        copy = saved.machine_for(f"rig-resumed-{number}", tmp_path / str(number))
        with Vm(copy) as resumed:
            assert "yes" in ask(resumed, "set kept", "kept = .*")
            ask(resumed, "set -v kept no", PROMPT)
            resumed.quit()


def test_a_snapshot_takes_back_what_was_done_after_it(vm: Vm) -> None:
    ask(vm, "set -v when before", PROMPT)
    vm.save("clean")
    ask(vm, "set -v when after", PROMPT)
    vm.load("clean")
    assert "before" in ask(vm, "set when", "when = .*")


def test_how_the_machine_ended_is_told(machine: Machine) -> None:
    with Vm(dataclasses.replace(machine, on_reboot="exit")) as vm:
        enter_shell(vm)
        vm.type("reset\r")
        ended = vm.wait_exit(30)
        assert ended.reason == "guest-reset"
        assert 0 < ended.at <= vm.seconds
        with pytest.raises(WaitTimeoutError, match="switched off"):
            vm.wait_for("login:", 30)
    with Vm(machine) as vm:
        enter_shell(vm)
        vm.type("reset -s\r")
        assert vm.wait_exit(30).reason == "guest-shutdown"
    assert (vm.directory / "console.log").read_text().startswith("[ ")


def test_a_machine_that_qemu_refuses_is_reported_with_qemus_words(machine: Machine) -> None:
    wrong = dataclasses.replace(machine, options=("-device", "no-such-device"))
    with pytest.raises(QemuDiedError, match="'no-such-device' is not a valid device"), Vm(wrong):
        pass


def test_an_emulator_that_dies_is_not_waited_for(machine: Machine) -> None:
    with Vm(machine) as vm:
        vm.wait_for(".", 30)
        vm._process.kill()
        with pytest.raises(QemuDiedError, match="ended with -9"):
            vm.wait_for("never", 60)
