"""Disks that erase themselves: what each can, which way is taken, and what is run for it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.adapters.command import Argument, Finished
from agent.adapters.storage.secure import SecureEraser
from agent.errors import CommandError, MachineError, StepError
from agent.inventory.erasure import Way, pick
from agent.resolve import resolve
from agent.secret import Secret
from agent.steps.secure_erase import SecureErase
from tests.unit.fakes import SERVER, FakeHost, plan
from tests.unit.fakes_storage import FakeStorage, storage_machine
from tests.unit.fakes_sysfs import Sysfs

NVME = "pci0000:00/0000:00:05.0/nvme/nvme0"
ATA = """
/dev/sda:

ATA device, with non-removable media
Security:
\tMaster password revision code = 65534
\t\tsupported
\tnot\tenabled
\tnot\tlocked
\tnot\tfrozen
\tnot\texpired: security count
\t\tsupported: enhanced erase
\t44min for SECURITY ERASE UNIT. 4min for ENHANCED SECURITY ERASE UNIT.
Logical Unit WWN Device Identifier: 5000c500a0000001
"""


@dataclass
class Disks:
    """nvme and hdparm for disks whose answers are given; `ran` is what changed something."""

    controller: dict[str, int] = field(default_factory=dict)
    ata: str = ""
    sanitizing: list[str] = field(default_factory=lambda: ["(1) done"])
    broken: str = ""
    """The word of a command that fails."""
    ran: list[str] = field(default_factory=list)
    slept: float = 0

    def attempt(
        self, *argv: Argument, secret: Secret | None = None, timeout: float = 60
    ) -> Finished:
        words = tuple(os.fspath(word) for word in argv)
        if self.broken and self.broken in words:
            return Finished(words, 5, "", "input/output error")
        if words[:2] == ("nvme", "id-ctrl"):
            return Finished(words, 0, json.dumps(self.controller), "")
        if words[:2] == ("nvme", "sanitize-log"):
            log = {"nvme0": {"sprog": 65535, "sstat": {"status": self.sanitizing.pop(0)}}}
            return Finished(words, 0, json.dumps(log), "")
        if words[:2] == ("hdparm", "-I"):
            return Finished(words, 0 if self.ata else 25, self.ata, "")
        self.ran.append(" ".join(words))
        return Finished(words, 0, "", "")

    def run(self, *argv: Argument, secret: Secret | None = None, timeout: float = 60) -> str:
        done = self.attempt(*argv, secret=secret, timeout=timeout)
        if done.status:
            raise CommandError(done.argv, f"exited with status {done.status}", done.stderr)
        return done.stdout

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    found = Sysfs(tmp_path)
    found.disk("nvme0n1", NVME)
    found.disk("sda")
    return found


def eraser(disks: Disks, sysfs: Sysfs) -> SecureEraser:
    return SecureEraser(disks.run, disks.attempt, sysfs.kernel, disks.sleep)


def ways(disks: Disks, sysfs: Sysfs, name: str) -> dict[str, Way]:
    return {way.method: way for way in eraser(disks, sysfs).ways(name)}


EVERYTHING = {"oacs": 0b10, "fna": 0b100, "sanicap": 0b11}


@pytest.mark.parametrize(
    ("controller", "sanitize", "format_"),
    [
        (EVERYTHING, "crypto erase", "crypto erase"),
        ({"oacs": 2, "fna": 0, "sanicap": 2}, "block erase", "user data erase"),
        ({"oacs": 0, "fna": 4, "sanicap": 4}, None, None),
        ({}, None, None),
    ],
)
def test_what_an_nvme_disk_can_is_what_its_controller_says(
    sysfs: Sysfs, controller: dict[str, int], sanitize: str | None, format_: str | None
) -> None:
    found = ways(Disks(controller), sysfs, "nvme0n1")
    for method, detail in (("nvme-sanitize", sanitize), ("nvme-format", format_)):
        way = found[method]
        assert (way.why_not == "") is (detail is not None)
        assert detail is None or way.detail == detail
    assert found["discard"].why_not == "the disk does not take discards"


def test_a_namespace_beside_others_is_never_erased_with_them(sysfs: Sysfs) -> None:
    sysfs.disk("nvme0n2", NVME)
    found = ways(Disks(EVERYTHING), sysfs, "nvme0n1")
    assert found["nvme-sanitize"].why_not == "it would erase nvme0n2 too"
    assert found["nvme-format"].why_not == "", "its format is of one namespace"
    for fna in (1, 2):
        found = ways(Disks({**EVERYTHING, "fna": fna}), sysfs, "nvme0n1")
        assert found["nvme-format"].why_not == "it would erase nvme0n2 too"


def test_a_controller_that_does_not_answer_is_no_way(sysfs: Sysfs) -> None:
    found = ways(Disks(broken="id-ctrl"), sysfs, "nvme0n1")
    assert "does not answer" in found["nvme-sanitize"].why_not
    assert "does not answer" in found["nvme-format"].why_not


@pytest.mark.parametrize(
    ("change", "why_not"),
    [
        (("x", "x"), ""),
        (("not\tfrozen", "\tfrozen"), "the firmware froze it"),
        (("not\tlocked", "\tlocked"), "locked with a password that is not ours"),
        (("not\tenabled", "\tenabled"), "a password is set"),
        (("\t\tsupported\n", "\tnot\tsupported\n"), "does not support it"),
    ],
)
def test_an_ata_disk_says_whether_it_can_be_erased_now(
    sysfs: Sysfs, change: tuple[str, str], why_not: str
) -> None:
    way = ways(Disks(ata=ATA.replace(*change)), sysfs, "sda")["ata"]
    assert why_not in way.why_not
    assert bool(way.why_not) is bool(why_not)
    assert (way.detail, way.seconds) == ("enhanced erase", 240)


def test_an_ata_disk_without_enhanced_erase_takes_as_long_as_it_says(sysfs: Sysfs) -> None:
    plain = ATA.replace("\t\tsupported: enhanced erase\n", "")
    way = ways(Disks(ata=plain), sysfs, "sda")["ata"]
    assert (way.detail, way.seconds) == ("erase", 44 * 60)


def test_a_disk_of_neither_kind_can_discard_or_nothing(sysfs: Sysfs) -> None:
    assert list(ways(Disks(), sysfs, "sda")) == ["discard"]
    sysfs.write("class/block/sda/queue/discard_max_bytes", "4294967295\n")
    assert ways(Disks(), sysfs, "sda")["discard"].why_not == ""


def test_auto_takes_the_first_way_that_there_is() -> None:
    no = Way("nvme-sanitize", why_not="not supported")
    yes, also = Way("nvme-format"), Way("discard")
    assert pick((also, yes, no), "auto") is yes
    assert pick((also, yes, no), "discard") is also
    assert pick((also, no), "nvme-sanitize") == "nvme-sanitize: not supported"
    assert pick((no,), "auto") == "nvme-sanitize: not supported"
    assert pick((yes,), "ata") == "ata: not for a disk of this kind"


def test_sanitize_is_waited_for(sysfs: Sysfs) -> None:
    disks = Disks(sanitizing=["(2) in progress", "(2) in progress", "(4) done, deallocated"])
    eraser(disks, sysfs).erase("nvme0n1", Way("nvme-sanitize", "block erase"))
    assert disks.ran == ["nvme sanitize /dev/nvme0n1 --sanact=2"]
    assert disks.slept == 10


def test_a_sanitize_that_failed_is_an_error(sysfs: Sysfs) -> None:
    disks = Disks(sanitizing=["(2) in progress", "(3) failed"])
    with pytest.raises(StepError, match="ended in state 3"):
        eraser(disks, sysfs).erase("nvme0n1", Way("nvme-sanitize", "crypto erase"))


@pytest.mark.parametrize(("detail", "ses"), [("crypto erase", 2), ("user data erase", 1)])
def test_format_is_of_the_one_namespace(sysfs: Sysfs, detail: str, ses: int) -> None:
    disks = Disks()
    eraser(disks, sysfs).erase("nvme0n1", Way("nvme-format", detail))
    assert disks.ran[0].startswith(f"nvme format /dev/nvme0n1 --ses={ses} --force")


def test_ata_sets_a_password_erases_and_is_open_again(sysfs: Sysfs) -> None:
    disks = Disks(ata=ATA)
    eraser(disks, sysfs).erase("sda", Way("ata", "enhanced erase"))
    assert disks.ran == [
        "hdparm --user-master u --security-set-pass bedplate /dev/sda",
        "hdparm --user-master u --security-erase-enhanced bedplate /dev/sda",
    ]


def test_a_disk_whose_erase_failed_is_unlocked_again(sysfs: Sysfs) -> None:
    disks = Disks(ata=ATA, broken="--security-erase")
    with pytest.raises(CommandError):
        eraser(disks, sysfs).erase("sda", Way("ata", "erase"))
    assert disks.ran[-1] == "hdparm --user-master u --security-disable bedplate /dev/sda"


def test_a_disk_that_stays_locked_is_an_error(sysfs: Sysfs) -> None:
    disks = Disks(ata=ATA.replace("not\tenabled", "\tenabled"))
    with pytest.raises(StepError, match="still locked"):
        eraser(disks, sysfs).erase("sda", Way("ata", "erase"))


# --- check, order of steps, step ---

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TWO = {"count": 2, "secure_erase": "auto"}


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_a_disk_that_cannot_forget_is_a_problem_with_its_reason(host: FakeHost) -> None:
    first, second = SERVER.disks[:2]
    host.storage.ways = {
        first.path: (Way("discard"),),
        second.path: (Way("ata", why_not="the firmware froze it"), Way("discard", why_not="no")),
    }
    with pytest.raises(MachineError) as caught:
        resolve(plan(disks=TWO), SERVER, host.machine(), NOW, lambda done, total: None)
    assert [str(problem) for problem in caught.value.problems] == [
        f"disks.secure_erase: {second} cannot: ata: the firmware froze it; discard: no"
    ]
    assert host.untouched


def test_each_disk_forgets_in_its_own_way_before_anything_else_is_written(host: FakeHost) -> None:
    first, second = SERVER.disks[:2]
    host.storage.ways = {
        first.path: (Way("nvme-format", "crypto erase"), Way("discard")),
        second.path: (Way("discard", "every block"),),
    }
    order = resolve(plan(disks=TWO), SERVER, host.machine(), NOW, lambda done, total: None)
    assert [step.name for step in order.steps[:3]] == [
        "secure-erase",
        "clear-disks",
        "partition-disks",
    ]
    assert "by nvme-format (crypto erase)" in order.steps[0].describe()
    evidence = order.steps[0].apply(host.machine(), lambda done, total: None)
    assert evidence == {
        "disks": [
            {"path": first.path, "serial": first.serial, "by": by, "detail": detail}
            for first, by, detail in (
                (first, "nvme-format", "crypto erase"),
                (second, "discard", "every block"),
            )
        ]
    }
    assert host.storage.calls == ["secure_erase nvme-format", "secure_erase discard"]


def test_without_the_wish_no_disk_is_asked(host: FakeHost) -> None:
    order = resolve(plan(), SERVER, host.machine(), NOW, lambda done, total: None)
    assert order.steps[0].name == "clear-disks"


def test_a_disk_exchanged_meanwhile_is_not_erased() -> None:
    disk = SERVER.disks[0]
    port = FakeStorage({Path(disk.path): ("other", disk.wwn, disk.size)})
    with pytest.raises(StepError, match="is not the disk that was chosen"):
        SecureErase((disk,), (Way("discard"),)).apply(
            storage_machine(port), lambda done, total: None
        )
    assert port.calls == []
