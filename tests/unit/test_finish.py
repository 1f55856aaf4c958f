"""How a run ends: the next boot is the installed system's, and the shutdown is an orderly one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.adapters.finish import How, finish
from agent.errors import CommandError
from agent.machine import BootEntry
from agent.secret import Secret
from tests.unit.fakes_target import FakeFirmware

FIRST, SECOND, OTHER = (UUID(int=number) for number in (1, 2, 3))
ENTRIES = [
    BootEntry("0000", "UEFI PXEv4", None),
    BootEntry("0001", "an older system", str(OTHER)),
    BootEntry("0002", "Debian (disk 2)", str(SECOND).upper()),
    BootEntry("0003", "Debian (disk 1)", str(FIRST)),
]


@dataclass
class Ran:
    argvs: list[tuple[Any, ...]] = field(default_factory=list)

    def __call__(self, *argv: Any, secret: Secret | None = None, timeout: float = 60) -> str:
        self.argvs.append(argv)
        return ""


def end(how: How, firmware: FakeFirmware, links: Path, *there: UUID) -> list[tuple[Any, ...]]:
    """Finish on a machine that has the partitions `there`; return the programs that ran."""
    ran = Ran()
    for partuuid in there:
        (links / str(partuuid)).touch()
    finish(how, ran, firmware, [FIRST, SECOND], links)
    return ran.argvs


def test_a_reboot_goes_to_the_first_disk_that_was_installed(tmp_path: Path) -> None:
    firmware = FakeFirmware(list(ENTRIES))
    assert end("reboot", firmware, tmp_path, FIRST, SECOND) == [
        ("systemctl", "--no-block", "reboot")
    ]
    assert firmware.next == "0003"


def test_the_entry_of_a_disk_that_died_is_passed_over(tmp_path: Path) -> None:
    firmware = FakeFirmware(list(ENTRIES))
    end("reboot", firmware, tmp_path, SECOND)
    assert firmware.next == "0002"


def test_an_entry_of_another_system_is_never_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    firmware = FakeFirmware(ENTRIES[:2])
    assert end("reboot", firmware, tmp_path, FIRST, SECOND, OTHER)
    assert firmware.next is None
    assert "the boot order decides" in caplog.text


def test_a_firmware_that_takes_no_boot_next_does_not_keep_the_machine_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(FakeFirmware):
        def boot_next(self, number: str) -> None:
            raise CommandError(("efibootmgr", "--bootnext", number), "exited with status 5")

    ran = end("reboot", Stubborn(list(ENTRIES)), tmp_path, FIRST)
    assert ran == [("systemctl", "--no-block", "reboot")]
    assert "efibootmgr --bootnext 0003: exited with status 5" in caplog.text


def test_power_off_chooses_no_boot_and_stay_does_nothing(tmp_path: Path) -> None:
    firmware = FakeFirmware(list(ENTRIES))
    assert end("poweroff", firmware, tmp_path, FIRST) == [("systemctl", "--no-block", "poweroff")]
    assert end("stay", firmware, tmp_path, FIRST) == []
    assert firmware.next is None
