"""A whole run over fakes: what is done, what is told, and what is never told."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.disks import parse_marker
from agent.adapters.finish import finish
from agent.errors import (
    AgentError,
    CommandError,
    LeftOpenError,
    MachineError,
    PlanError,
    Problem,
    StepError,
)
from agent.find import Found
from agent.inventory.model import Disk, Inventory, Marker
from agent.keyslots import INSTALL, RECOVERY, UNLOCK
from agent.layout.model import Layout, Role
from agent.layout.place import Names
from agent.machine import Machine
from agent.report.event import Event
from agent.report.reporter import Reporter
from agent.report.tail import LogTail
from agent.resolve import Order, esps, lay_out
from agent.secret import Secret
from agent.session import Approve, Ended, Outcome, run
from agent.steps.add_recovery_key import AddRecoveryKey
from agent.target import marker
from tests.unit.fakes import DISKS, SERVER, TANG, TOKEN, FakeHost, order, plan

writes_a_tree = pytest.mark.skipif(
    os.geteuid() != 0, reason="files of the tree get their owners, which only root may do"
)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def yes(order: Order) -> None:
    del order


def install(host: FakeHost, content: bytes | None = None, approve: Approve = yes) -> Ended:
    found = Found("a test", order() if content is None else content)
    return run(lambda inventory: found, host, host.reporter, approve)


def last(host: FakeHost) -> Event:
    return host.receiver.events[-1]


def reported(host: FakeHost) -> dict[str, Any]:
    report = last(host).evidence["report"]
    assert isinstance(report, dict)
    return report


def loaders(host: FakeHost) -> list[str]:
    """Return what a firmware could start, on any ESP."""
    return sorted(
        str(path.relative_to(host.mounts.esps)) for path in host.mounts.esps.rglob("*.[eE][fF][iI]")
    )


# --- a run that works ---


@writes_a_tree
def test_a_run_ends_installed_with_every_step_told_in_order(host: FakeHost) -> None:
    orders: list[Order] = []
    ended = install(host, approve=orders.append)
    assert (ended.outcome, ended.finish) == (Outcome.INSTALLED, "reboot")
    steps = [step.name for step in orders[0].steps]
    expected = [
        f"{name} {state}" for name in ["find", "check"] for state in ("started", "finished")
    ]
    expected.append("install started")
    for name in steps:
        expected.append(f"{name} started")
        expected += ["escrow progress"] * (name == "escrow-recovery-key")
        expected.append(f"{name} finished")
    assert host.receiver.told() == [*expected, "install finished"]
    assert [event.seq for event in host.receiver.events] == list(
        range(1, len(host.receiver.events) + 1)
    )
    announced = next(event for event in host.receiver.events if event.step == "install")
    assert [each["name"] for each in announced.evidence["steps"]] == steps  # type: ignore[union-attr, index, call-overload]


@writes_a_tree
def test_the_events_name_plan_and_machine_as_soon_as_they_are_known(host: FakeHost) -> None:
    install(host)
    first, *others = host.receiver.events
    assert (first.plan, first.machine) == ("", "")
    assert {(event.plan, event.machine) for event in others} == {(str(plan().id), "CZ1234")}
    assert [followed.id for followed in host.followed] == [plan().id]


@writes_a_tree
def test_the_report_says_what_was_installed_with_the_evidence_of_every_step(host: FakeHost) -> None:
    orders: list[Order] = []
    install(host, approve=orders.append)
    report = reported(host)
    assert report["state"] == "installed"
    assert report["live"] == {"kernel": "6.12"}
    layout = orders[0].layout
    assert isinstance(layout, Layout)
    assert report["layout"]["luks"]["uuid"] == str(_luks(layout))
    assert [disk["serial"] for disk in report["layout"]["disks"]] == ["SN1", "SN2"]
    assert set(report["proofs"]) == {step.name for step in orders[0].steps}
    finished = {e.step: e.evidence for e in host.receiver.events if e.state == "finished"}
    for name, evidence in report["proofs"].items():
        assert evidence, f"{name} shows nothing for itself"
        assert evidence == {k: v for k, v in finished[name].items() if k != "seconds"}
    assert report["proofs"]["prove-unlock"]["unlock"] == "proven"
    assert report["proofs"]["prove-unlock"]["state"] == "provisional"
    assert report["proofs"]["prove-target"]["esps"] == 2


def _luks(layout: Layout) -> object:
    assert layout.luks is not None
    return layout.luks.uuid


@writes_a_tree
def test_afterwards_only_the_recovery_key_and_clevis_open_the_disks(host: FakeHost) -> None:
    orders: list[Order] = []
    install(host, approve=orders.append)
    install_key, recovery_key = keys(orders[0])
    assert set(host.keys.slots) == {RECOVERY, UNLOCK}
    assert host.keys.slots[RECOVERY] == recovery_key
    assert install_key not in host.keys.slots.values()
    (envelope,) = host.receiver.envelopes
    assert recovery_key.text in host.escrow.contents[envelope].text
    assert host.mounts.mounted_at == {}
    assert host.storage.calls[-1] == "release"
    assert loaders(host)


@writes_a_tree
def test_a_single_disk_without_encryption_is_installed_too(host: FakeHost) -> None:
    ended = install(
        host, order(None, disks={"count": 1, "where": {"serial": ["SN1"]}}, finish="stay")
    )
    assert ended.finish == "stay"
    assert host.keys.slots == {}
    assert host.receiver.envelopes == []
    assert len(host.firmware.created) == 1


@writes_a_tree
def test_the_marker_that_a_run_leaves_makes_the_same_plan_a_no_op(
    host: FakeHost, tmp_path: Path
) -> None:
    install(host)
    text = next(host.mounts.esps.rglob(Path(marker.PATH).name)).read_text()
    note = parse_marker(text, "/dev/vda1")
    assert note is not None
    assert (note.plan, note.machine, note.hostname) == (plan().id, "CZ1234", "db01.example.com")
    again = FakeHost(tmp_path / "again", marked(note))
    assert install(again).outcome is Outcome.ALREADY
    assert again.untouched


# --- the same plan again ---


def marked(note: Marker, disk: int = 1) -> Inventory:
    """Return the server with the note on one of its disks."""
    disks: list[Disk] = list(DISKS)
    disks[disk] = disks[disk].model_copy(update={"marker": note})
    return SERVER.model_copy(update={"disks": tuple(disks)})


NOTE = Marker(
    plan=plan().id, hostname="db01", machine="CZ1234", finished="2026-11-21T10:00:00+00:00"
)


def test_an_installed_plan_writes_nothing_and_says_so(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, marked(NOTE))
    host.machine = no_machine  # type: ignore[method-assign]  # nothing may be asked of one
    ended = install(host, order(finish="stay"))
    assert (ended.outcome, ended.finish) == (Outcome.ALREADY, "reboot")
    assert host.untouched
    assert host.receiver.told() == ["find started", "find finished", "install finished"]
    assert reported(host) == {"state": "already installed", "installed": NOTE.finished}
    assert host.followed, "the report servers hear of it"


def no_machine() -> Machine:
    raise AssertionError("no machine is needed to say that it is installed")


def test_the_next_boot_is_that_of_an_esp_of_the_installed_system(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, marked(NOTE))
    ended = install(host)
    layout = lay_out(plan(), SERVER)
    assert isinstance(layout, Layout)
    esps = [disk.partition(Role.ESP).partuuid for disk in layout.disks]
    assert list(ended.esps) == esps
    host.storage.partition(layout.disks)
    host.firmware.create("PXE", disk=Path(DISKS[0].path), partition=3, loader="\\pxe")
    host.firmware.create("Debian", disk=Path(DISKS[1].path), partition=1, loader="\\x")
    (tmp_path / str(esps[1])).touch()
    ran: list[tuple[str, ...]] = []

    def program(*argv: Any, secret: Secret | None = None, timeout: float = 60) -> str:
        ran.append(argv)
        return ""

    finish(ended.finish, program, host.firmware, ended.esps, tmp_path)
    chosen = next(entry for entry in host.firmware.order if entry.number == host.firmware.next)
    assert chosen.label == "Debian"
    assert ran == [("systemctl", "--no-block", "reboot")]


def test_another_plan_on_an_installed_machine_is_carried_on_to_the_check(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, marked(NOTE))
    with pytest.raises(MachineError):
        install(host, order(id="11111111-6d6e-4f43-9a4e-6a2f7e0c2b11"), refuse)
    assert "check finished" in host.receiver.told()


# --- a run that is refused ---


def refuse(order: Order) -> None:
    raise MachineError([Problem(str(order.layout.disks[0].disk), "would be erased: say so")])


def no_plan(inventory: Inventory) -> Found:
    raise MachineError([Problem("plan", "none found; looked at the kernel command line")])


def test_a_plan_that_cannot_be_read_is_told_and_has_its_exit_status(host: FakeHost) -> None:
    with pytest.raises(PlanError) as caught:
        install(host, b"version: 1\nhostnam: x\n")
    assert caught.value.exit_status == 3
    assert host.receiver.told() == ["find started", "find failed", "install failed"]
    assert "hostnam: unknown key" in last(host).message
    assert last(host).evidence["advice"] == [
        "nothing was touched",
        "correct the plan and start again",
    ]
    assert last(host).machine == "CZ1234"
    assert host.untouched


def test_without_a_plan_the_run_ends_with_where_it_looked(host: FakeHost) -> None:
    with pytest.raises(MachineError) as caught:
        run(no_plan, host, host.reporter, yes)
    assert caught.value.exit_status == 4
    assert host.receiver.told() == ["find started", "find failed", "install failed"]
    assert last(host).message == "plan: none found; looked at the kernel command line"


def test_a_machine_that_is_refused_is_told_every_problem_in_one_event(host: FakeHost) -> None:
    host.images.wrong = "manifest: no trusted one to be had"
    with pytest.raises(MachineError):
        install(host, order(machine={"serial": "CZ9999"}))
    assert host.receiver.told() == [
        "find started",
        "find finished",
        "check started",
        "check failed",
        "install failed",
    ]
    assert len(last(host).message.splitlines()) == 2
    assert host.untouched


@pytest.mark.parametrize("phase", ["find", "check"])
def test_a_program_that_fails_before_the_first_write_leaves_no_disk_unbootable(
    tmp_path: Path, phase: str
) -> None:
    class Poor(FakeHost):
        def inventory(self) -> Inventory:
            if phase == "find":
                raise CommandError(("blkid",), "is not installed")
            return super().inventory()

        def machine(self) -> Machine:
            raise CommandError(("cryptsetup",), "is not installed")

    host = Poor(tmp_path)
    with pytest.raises(MachineError, match="is not installed") as caught:
        install(host)
    assert caught.value.exit_status == 4
    assert host.receiver.told()[-2:] == [f"{phase} failed", "install failed"]
    assert "nothing was touched" in json.dumps(last(host).evidence["advice"])


def test_who_does_not_approve_stops_the_run_before_the_first_step(host: FakeHost) -> None:
    with pytest.raises(MachineError, match="would be erased"):
        install(host, approve=refuse)
    assert host.receiver.told()[-2:] == ["check finished", "install failed"]
    assert host.untouched


# --- a run that fails ---


def small_disks(host: FakeHost) -> None:
    host.storage.fails = "make_volumes"


def broken_image(host: FakeHost) -> None:
    host.images.cut = "chunk 7: digest differs on every mirror"


def dead_tang(host: FakeHost) -> None:
    host.clevis.dead = {TANG}


def deaf_receiver(host: FakeHost) -> None:
    host.reporter = Reporter("", "", [host.receiver.events.append], run="run-1")


def full_firmware(host: FakeHost) -> None:
    host.firmware.full = True


@writes_a_tree
def test_a_machine_that_boots_is_not_called_unbootable_because_it_could_not_be_closed(
    host: FakeHost,
) -> None:
    host.storage.fails = "release"
    with pytest.raises(LeftOpenError, match="does not work today") as caught:
        install(host)
    assert caught.value.exit_status == 5
    assert "the disks boot" in json.dumps(last(host).evidence["advice"])
    assert "unbootable" not in json.dumps(last(host).evidence["advice"])
    assert loaders(host)


@writes_a_tree
@pytest.mark.parametrize(
    ("spoil", "step", "reason"),
    [
        (small_disks, "make-volumes", "make_volumes: does not work today"),
        (broken_image, "write-image", "chunk 7: digest differs on every mirror"),
        (dead_tang, "prove-unlock", f"no share came from {TANG}"),
        (deaf_receiver, "escrow-recovery-key", "no report sink keeps envelopes"),
        (full_firmware, "make-bootable", "No space left on device"),
    ],
)
def test_a_step_that_fails_ends_the_run_and_leaves_disks_that_do_not_boot(
    host: FakeHost, spoil: Callable[[FakeHost], None], step: str, reason: str
) -> None:
    spoil(host)
    orders: list[Order] = []
    with pytest.raises(StepError, match=reason) as caught:
        install(host, approve=orders.append)
    assert caught.value.exit_status == 5
    names = [each.name for each in orders[0].steps]
    told = [line for line in host.receiver.told() if line.split()[0] in names]
    done = names[: names.index(step)]
    assert [line for line in told if line.endswith("finished")] == [
        f"{name} finished" for name in done
    ]
    assert told[-2:] == [f"{step} started", f"{step} failed"]
    assert host.receiver.told()[-1] == "install failed"
    assert reason in last(host).message
    assert "unbootable" in json.dumps(last(host).evidence["advice"])
    assert reported(host) == {}
    assert loaders(host) == []
    assert not list(host.mounts.esps.rglob(Path(marker.PATH).name))
    assert host.storage.calls[-1] == "release"
    assert set(host.storage.synced) <= {"idle"}
    if step in ("prove-unlock", "escrow-recovery-key"):
        assert INSTALL in host.keys.slots, "the install key outlives what did not work"


@writes_a_tree
def test_a_bug_is_told_as_such_and_keeps_its_traceback(host: FakeHost) -> None:
    def broken_program(root: Path, argv: tuple[str, ...]) -> None:
        raise RuntimeError("off by one")

    host.target.programs["systemctl"] = broken_program
    with pytest.raises(RuntimeError, match="off by one") as caught:
        install(host)
    assert caught.traceback[-1].name == "broken_program"
    failed = host.receiver.events[-2]
    assert (failed.step, failed.state) == ("configure-host", "failed")
    assert any("broken_program" in str(line) for line in failed.evidence["traceback"])  # type: ignore[union-attr]
    assert "bug in bedplate" in json.dumps(last(host).evidence["advice"])
    assert host.storage.calls[-1] == "release"


# --- what is never told ---


def keys(order: Order) -> tuple[Secret, Secret]:
    (found,) = (step for step in order.steps if isinstance(step, AddRecoveryKey))
    return found.install_key, found.recovery_key


def forms(secret: Secret) -> list[str]:
    """Return what a secret might look like where it leaked, whole or the best part of it."""
    text = secret.text
    encoded = base64.b64encode(secret.value).decode().rstrip("=")
    return [
        text,
        text[:40],
        text.replace("-", ""),
        secret.value.hex(),
        encoded[:-2],
        repr(secret.value),
    ]


def leaking_keys(host: FakeHost) -> None:
    """Break down right where the keys are in hand."""

    def add(device: Path, *, existing: Secret, new: Secret, slot: int) -> None:
        raise RuntimeError(f"{existing} does not open {device}, {new!r} is lost")

    host.keys.add = add  # type: ignore[method-assign]


def nothing(host: FakeHost) -> None:
    del host


@writes_a_tree
@pytest.mark.parametrize("spoil", [nothing, leaking_keys, dead_tang, broken_image, full_firmware])
def test_no_key_and_no_token_is_ever_shown_or_left_behind(
    host: FakeHost, spoil: Callable[[FakeHost], None], caplog: pytest.LogCaptureFixture
) -> None:
    tail = LogTail()
    host.reporter = Reporter("", "", [host.receiver], tail=tail, run="run-1")
    spoil(host)
    orders: list[Order] = []
    with caplog.at_level(logging.DEBUG):
        logging.getLogger().addHandler(tail)
        try:
            install(host, approve=orders.append)
        except (AgentError, RuntimeError):
            logging.getLogger("agent").exception("the run failed")
        finally:
            logging.getLogger().removeHandler(tail)
    (order,) = orders
    install_key, recovery_key = keys(order)
    emitted = b"".join(event.line for event in host.receiver.events).decode()
    shown = [emitted, caplog.text, "\n".join(tail.lines()), repr(order), repr(host.receiver)]
    files = [path.read_bytes() for path in host.root.rglob("*") if path.is_file()]
    files += [path.read_bytes() for path in host.mounts.esps.rglob("*") if path.is_file()]
    left = b"\0".join([*files, *host.receiver.envelopes]).decode(errors="replace")
    for secret in (install_key, recovery_key):
        for form in forms(secret):
            assert not any(form in text for text in (*shown, left))
    assert not any(TOKEN in text for text in shown)
    # The canary sings where it may: what was looked through is what holds such things.
    assert str(order.plan.id) in emitted
    assert "Secret(…)" in repr(order)


def test_the_esps_that_boot_are_those_of_the_plans_names() -> None:
    done = Marker(plan=plan().id, hostname="h", machine="CZ1234", finished="x")
    assert esps(plan(), SERVER, done) == Names(plan().id, "CZ1234").esps(2)
