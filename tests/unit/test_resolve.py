"""Plan × inventory: everything decided, or every reason why not, before anything is written."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import MachineError, StepError
from agent.inventory.model import Content, Disk, Firmware, Inventory, Marker, Nic
from agent.layout.extents import GIB
from agent.layout.model import Layout, Role
from agent.layout.picture import plain, tree
from agent.machine import Advertisement
from agent.plan.parse import parse
from agent.resolve import Order, lay_out, resolve
from tests.unit.fakes import DISKS, SERVER, TANG, FakeHost, plan
from tests.unit.fakes_keys import FakeTang, FakeTpm, advertisement
from tests.unit.plan import plans

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def decide(host: FakeHost, inventory: Inventory = SERVER, **changes: Any) -> Order:
    return resolve(plan(**changes), inventory, host.machine(), NOW, lambda done, total: None)


def problems(host: FakeHost, inventory: Inventory = SERVER, **changes: Any) -> list[str]:
    with pytest.raises(MachineError) as caught:
        decide(host, inventory, **changes)
    assert caught.value.exit_status == 4
    return [str(problem) for problem in caught.value.problems]


def with_disks(*disks: Disk) -> Inventory:
    return SERVER.model_copy(update={"disks": disks})


def changed(disk: Disk, **facts: Any) -> Disk:
    return disk.model_copy(update=facts)


# --- refusals ---


def test_every_problem_of_a_run_comes_out_together_and_nothing_is_written(host: FakeHost) -> None:
    host.tpm = FakeTpm(("this machine has no TPM 2.0",))
    host.tang = FakeTang({TANG: advertisement(TANG, "W" * 43)})
    host.images.wrong = "manifest: no trusted one to be had; signature: matches no trusted key"
    found = problems(
        host,
        with_disks(changed(DISKS[0], size=8 * GIB)),
        machine={"mac": "52:54:00:99:99:99"},
        expires="2026-01-01T00:00:00Z",
    )
    expected = (
        "machine.mac: the plan is for 52:54:00:99:99:99, this machine has 52:54:00:12:34:56",
        "expires: the plan expired at 2026-01-01T00:00:00Z",
        "encryption.unlock: this machine has no TPM 2.0",
        f"encryption.tang: {TANG}: has no key {plans.THUMBPRINT}",
        "disks: 1 match, the plan counts 2",
        "image.manifest: manifest: no trusted one to be had",
    )
    assert len(found) == len(expected)
    for problem, beginning in zip(found, expected, strict=True):
        assert problem.startswith(beginning)
    assert host.untouched


def test_what_only_layout_and_image_can_show_comes_out_with_the_rest(host: FakeHost) -> None:
    section = host.images.manifest.tree
    assert section is not None
    host.images.manifest = host.images.manifest.model_copy(
        update={
            "tree": section.model_copy(
                update={
                    "programs": {k: v for k, v in section.programs.items() if k != "mdadm"},
                    "directories": {
                        **section.directories,
                        "/": section.directories["/"].model_copy(update={"bytes": 900 * GIB}),
                    },
                    "architecture": "s390x",
                }
            )
        }
    )
    host.images.away = "404 Not Found"
    host.reports.reasons = ("https://deploy.example.com: connection refused",)
    host.storage.disks[Path("/dev/vda")] = ("another", None, 64 * GIB)
    old = Firmware(uefi=False)
    found = "\n".join(problems(host, SERVER.model_copy(update={"firmware": old})))
    for part in (
        "legacy BIOS",
        "report[0]: https://deploy.example.com: connection refused",
        "404 Not Found",
        "/dev/vda: is not the disk that was chosen: serial was SN1, is another",
        "/: the image debian13 needs",
        "is built for s390x",
        "mdadm",
    ):
        assert part in found
    assert host.untouched


def test_a_check_that_cannot_be_made_refuses_the_machine(host: FakeHost) -> None:
    host.escrow.fails = "openssl cms: is not installed"
    found = problems(host)
    assert len(found) == 1
    assert "openssl cms: is not installed" in found[0]
    assert host.untouched


def test_a_tang_server_that_goes_away_after_its_check_is_no_failed_step(host: FakeHost) -> None:
    class Leaving(FakeTang):
        left = 2  # it is asked by two checks

        def advertisement(self, url: str, thumbprint: str) -> Advertisement:
            self.left -= 1
            if self.left < 0:
                raise StepError(f"{url}: no Tang server answers there")
            return super().advertisement(url, thumbprint)

    host.tang = Leaving(host.tang.servers)
    assert problems(host) == [f"{TANG}: no Tang server answers there"]


def test_foreign_data_is_refused_by_name_unless_the_plan_gives_it_up(host: FakeHost) -> None:
    foreign = Content(device="/dev/vda2", kind="xfs", label="precious", size=GIB)
    inventory = with_disks(changed(DISKS[0], content=(foreign,)), DISKS[1])
    (problem,) = problems(host, inventory)
    assert 'holds foreign data (/dev/vda2: xfs, 1.0 GiB, label "precious")' in problem
    order = decide(host, inventory, disks={"count": 2, "erase": "any"})
    assert order.summary()["lost"] == ['/dev/vda2: xfs, 1.0 GiB, label "precious"']
    assert host.untouched


def test_the_disks_own_problems_and_those_of_the_volumes_come_together(host: FakeHost) -> None:
    used = with_disks(changed(DISKS[0], in_use=("/dev/vda1 is mounted at /mnt",)), DISKS[1])
    found = lay_out(plan(storage={"volumes": [{"mount": "/srv", "size": "1 TiB"}]}), used)
    assert isinstance(found, list)
    assert [problem.where for problem in found] == [str(used.disks[0]), "storage.volumes"]


def test_without_encryption_neither_tpm_nor_tang_is_asked(host: FakeHost) -> None:
    host.tpm = FakeTpm(("this machine has no TPM 2.0",))
    host.tang = FakeTang()
    layout = decide(host, unlock=None).layout
    assert isinstance(layout, Layout)
    assert layout.luks is None


def test_a_policy_without_tang_asks_no_server(host: FakeHost) -> None:
    host.tang = FakeTang()
    assert decide(host, unlock="tpm2").plan.encryption is not None
    assert "encryption.tang" in problems(host, unlock="tpm2 or tang")[0]


# --- what is decided ---


def test_checking_writes_nothing_and_decides_what_preview_shows(host: FakeHost) -> None:
    order = decide(host)
    assert order.layout == lay_out(plan(), SERVER)
    assert order.steps
    assert host.untouched


def test_the_order_tells_what_will_happen_and_what_did(host: FakeHost) -> None:
    order = decide(host)
    summary, report = order.summary(), order.report()
    assert json.loads(json.dumps([summary, report])) == [summary, report]
    assert summary["disks"] == [str(disk) for disk in (DISKS[0], DISKS[1])]
    assert summary["lost"] == []
    assert report["machine"] == "CZ1234"
    assert report["image"]["sha256"] == host.images.manifest.sha256
    serials = [disk["serial"] for disk in report["layout"]["disks"]]
    assert serials == ["SN1", "SN2"]


def test_the_report_says_whose_rules_were_followed_and_which_were_not(host: FakeHost) -> None:
    weaker = [{"mount": "/home", "options": ["nodev"]}]
    order = decide(host, storage={"preset": "anssi-high", "volumes": weaker})
    report = order.report()
    assert report["preset"]["name"] == "anssi-high"
    assert report["preset"]["benchmark"] == "ANSSI-BP-028 v2.0, level high"
    assert report["preset"]["left_open"][-1].startswith("ANSSI-BP-028-R29: /boot is mounted")
    assert (
        report["layout"]["deviations"]
        == order.summary()["deviations"]
        == [
            "deviates from anssi-high: ANSSI-BP-028-R28 (/home: without nosuid)",
            "deviates from anssi-high: ANSSI-BP-028-R28 (/home: without noexec)",
        ]
    )


def test_a_finished_installation_by_this_plan_is_found_on_either_leg() -> None:
    wanted = plan()
    mine = Marker(plan=wanted.id, hostname="db01", machine="CZ1234", finished="2026-11-22")
    other = mine.model_copy(update={"plan": UUID(int=1)})
    assert SERVER.installed_by(wanted.id) is None
    for disks in (
        (changed(DISKS[0], marker=mine), DISKS[1]),
        (changed(DISKS[0], marker=other), changed(DISKS[1], marker=mine)),
    ):
        assert with_disks(*disks).installed_by(wanted.id) == mine
    assert with_disks(changed(DISKS[0], marker=other)).installed_by(wanted.id) is None


# --- any machine, any plan ---

names = st.none() | st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6)
labels = st.none() | st.text(max_size=6)
contents = st.builds(
    Content,
    device=st.just("/dev/vda1"),
    kind=st.sampled_from(["gpt", "xfs", "data", "LVM2_member"]),
    label=labels,
    uuid=names,
    size=st.integers(0, 2 * GIB),
    partition_name=st.sampled_from([None, "bedplate-esp", "da\nta\x1b[2J"]),
)
machine_disks = st.builds(
    Disk,
    path=st.text("abcdef", min_size=1, max_size=3).map("/dev/vd{}".format),
    serial=names,
    wwn=names,
    model=names,
    size=st.sampled_from([0, 4 * GIB, 64 * GIB]) | st.integers(16 * GIB, 4096 * GIB),
    sector_size=st.sampled_from([512, 4096]),
    transport=st.sampled_from(["nvme", "sata", "virtio", "unknown", "usb"]),
    rotational=st.booleans(),
    read_only=st.integers(0, 9).map(lambda number: number == 9),
    content=st.lists(contents, max_size=2).map(tuple),
)
inventories = st.builds(
    Inventory,
    firmware=st.just(Firmware(uefi=True)),
    memory=st.just(GIB),
    disks=st.lists(machine_disks, max_size=3).map(tuple),
    nics=st.just((Nic(name="eth0", mac="52:54:00:12:34:56"),)),
)


@settings(max_examples=40, deadline=None)
@given(inventories, plans.plans)
def test_any_plan_on_any_machine_gives_a_layout_or_problems(
    inventory: Inventory, content: dict[str, Any]
) -> None:
    # A plan that takes whatever there is comes further than one with conditions.
    whatever = {"count": max(1, min(2, len(inventory.disks))), "erase": "any"}
    modest = content.get("storage", {}) | {"volumes": []}
    for candidate in (
        content,
        {**content, "disks": whatever},
        {**content, "disks": whatever, "storage": modest},
    ):
        found = lay_out(parse(plans.text_of(candidate)), inventory)
        if isinstance(found, list):
            assert found
            for problem in found:
                first, *listed = str(problem).split("\n")
                assert problem.message
                assert first
                assert all(line.startswith("  /dev/") for line in listed), "a line for each disk"
            continue
        assert isinstance(found, Layout)
        shown = json.loads(json.dumps(plain(found)))
        assert _sizes(shown) == [
            [(p.start, p.size) for p in laid.partitions] for laid in found.disks
        ]
        assert [volume["size"] for volume in shown["volumes"]] == [
            volume.size for volume in found.group.volumes
        ]
        assert len({fs.mount for fs in found.filesystems}) == len(found.filesystems)
        assert len({volume.name for volume in found.group.volumes}) == len(found.group.volumes)
        assert list(tree(found))


def _sizes(shown: dict[str, Any]) -> list[list[tuple[int, int]]]:
    return [[(p["start"], p["size"]) for p in disk["partitions"]] for disk in shown["disks"]]


def test_both_legs_get_the_same_extents_and_a_leg_of_another_size_is_no_problem() -> None:
    found = lay_out(plan(), with_disks(DISKS[0], changed(DISKS[1], size=80 * GIB)))
    assert isinstance(found, Layout)
    first, second = (
        [(part.role, part.start, part.size) for part in disk.partitions] for disk in found.disks
    )
    assert first == second
    assert found.disks[1].partition(Role.ROOT).end < 64 * GIB


def test_the_root_that_is_mounted_is_the_machines(host: FakeHost) -> None:
    machine = replace(host.machine(), root=Path("/elsewhere"))
    order = resolve(plan(), SERVER, machine, NOW, lambda done, total: None)
    assert {str(step.root) for step in order.steps if hasattr(step, "root")} == {"/elsewhere"}
