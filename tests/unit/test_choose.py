"""The right disks, or a problem that shows every disk with its reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.errors import Problem
from agent.inventory.choose import choose, may_erase, reasons_against, same_device
from agent.inventory.model import Content, Disk, Firmware, Inventory, Marker
from agent.layout.picture import losses
from agent.plan.disks import Disks
from agent.report.event import MESSAGE_LIMIT
from agent.report.text import plain_lines

GB = 10**9
NVME = Disk(path="/dev/nvme0n1", serial="N1", model="SN850", size=960 * GB, transport="nvme")
SATA = Disk(
    path="/dev/sda",
    by_id=("/dev/disk/by-id/ata-HDD_S1",),
    serial="S1",
    size=4000 * GB,
    transport="sata",
    rotational=True,
)
STICK = Disk(path="/dev/sdb", serial="U1", size=32 * GB, transport="usb", removable=True)


def machine(*disks: Disk) -> Inventory:
    return Inventory(firmware=Firmware(uefi=True), memory=1, disks=disks)


def want(count: int = 1, **where: object) -> Disks:
    return Disks.model_validate({"count": count, "where": where})


def test_the_disk_that_meets_every_condition_is_taken() -> None:
    chosen = choose(machine(NVME, SATA), want(transport=["nvme", "sata"], size="< 2 TB"))
    assert chosen == (NVME,)


def test_no_match_lists_every_disk_with_its_reason() -> None:
    problem = choose(machine(NVME, SATA), want(serial="X9"))
    assert isinstance(problem, Problem)
    assert problem.message.splitlines() == [
        "0 match, the plan counts 1; this machine has",
        "  /dev/nvme0n1 (SN850, serial N1), 894.1 GiB: serial is N1, not X9;",
        "  /dev/sda (no model, serial S1), 3725.3 GiB: serial is S1, not X9",
    ]


def test_two_dozen_disks_are_all_seen_on_a_console() -> None:
    bays = [
        Disk(path=f"/dev/sd{bay}", model="MZ7LH960", serial=f"S45PNA0M{bay}", size=960 * GB)
        for bay in "abcdefghijklmnopqrstuvwx"
    ]
    problem = choose(machine(*bays), want(serial="X9"))
    assert isinstance(problem, Problem)
    assert len(problem.message) < MESSAGE_LIMIT
    shown = plain_lines(str(problem), ascii_only=True)
    assert [bay.path for bay in bays if not any(bay.path in line for line in shown)] == []
    assert not any(line.endswith("...") for line in shown)


def test_what_a_disk_says_of_itself_cannot_drive_a_terminal() -> None:
    disk = NVME.model_copy(update={"model": "\x1b[2Jnothing\n  /dev/sdz: matches"})
    problem = choose(machine(disk), want(serial="X9"))
    assert isinstance(problem, Problem)
    assert "\x1b" not in problem.message
    assert len(problem.message.splitlines()) == 2


def test_too_many_matches_are_never_settled_by_taking_the_first() -> None:
    problem = choose(machine(NVME, SATA), want())
    assert isinstance(problem, Problem)
    assert problem.message.startswith("2 match, the plan counts 1")


def test_a_usb_disk_is_not_taken_unless_it_is_named() -> None:
    assert choose(machine(NVME, STICK), want()) == (NVME,)
    assert choose(machine(NVME, STICK), want(serial="U1")) == (STICK,)
    assert choose(machine(NVME, STICK), want(transport="usb")) == (STICK,)


def test_the_boot_medium_is_not_taken_unless_it_is_named() -> None:
    medium = SATA.model_copy(update={"boot_medium": True})
    assert choose(machine(NVME, medium), want()) == (NVME,)
    assert choose(machine(NVME, medium), want(path="/dev/disk/by-id/ata-HDD_S1")) == (medium,)


def test_two_disks_with_one_serial_may_be_one_disk() -> None:
    twin = NVME.model_copy(update={"path": "/dev/nvme1n1"})
    problem = choose(machine(NVME, twin), want(2))
    assert isinstance(problem, Problem)
    assert "same serial" in problem.message


WWN = "0x5000c500a0000001"
PATHS = [
    SATA.model_copy(update={"path": f"/dev/sd{letter}", "wwn": WWN, "transport": "sas"})
    for letter in "cda"
]


@given(st.permutations([NVME, *PATHS]))
def test_two_paths_to_one_disk_count_as_one(disks: list[Disk]) -> None:
    assert choose(machine(*disks), want(2)) == (NVME, PATHS[2])
    problem = choose(machine(*disks), want(2, transport="sas"))
    assert isinstance(problem, Problem)
    assert problem.message.startswith("1 match, the plan counts 2")
    assert "/dev/sdc (no model, serial S1), 3725.3 GiB: is another path to /dev/sda" in str(problem)


def test_the_path_that_the_plan_names_is_the_one_that_is_used() -> None:
    assert choose(machine(*PATHS), want(path="/dev/sdd")) == (PATHS[1],)


@pytest.mark.parametrize("wwn", ["0x0000000000000000", "eui.0000000000000000", ""])
def test_disks_that_were_never_given_a_wwn_are_not_taken_for_one(wwn: str) -> None:
    pair = [SATA.model_copy(update={"path": f"/dev/sd{n}", "serial": n, "wwn": wwn}) for n in "ab"]
    chosen = choose(machine(*pair), want(2))
    assert chosen == tuple(pair)


def test_disks_of_one_wwn_and_different_sizes_are_two_disks() -> None:
    other = SATA.model_copy(update={"path": "/dev/sdx", "serial": "S2", "wwn": WWN, "size": GB})
    assert isinstance(choose(machine(PATHS[0], other), want(2)), tuple)


HBA = "/sys/devices/pci0000:00/0000:00:{}.0"


@pytest.mark.parametrize(
    ("controllers", "problem"),
    [
        (("01", "02"), None),
        (("01", "01"), "both hang on the controller 0000:00:01.0"),
        (("01", None), "does not show which controller it hangs on"),
    ],
)
def test_the_halves_of_a_mirror_can_be_asked_to_hang_on_different_controllers(
    controllers: tuple[str, str | None], problem: str | None
) -> None:
    pair = [
        disk.model_copy(update={"controller": place and HBA.format(place)})
        for disk, place in zip((NVME, SATA), controllers, strict=True)
    ]
    wanted = Disks.model_validate({"count": 2, "on_different_controllers": True})
    found = choose(machine(*pair), wanted)
    if problem is None:
        assert found == tuple(pair)
    else:
        assert isinstance(found, Problem)
        assert found.where == "disks.on_different_controllers"
        assert problem in found.message
    assert choose(machine(*pair), want(2)) == tuple(pair)


@pytest.mark.parametrize("transport", ["fc", "iscsi", "nvmeof", "usb", "mmc"])
def test_what_is_removable_or_shared_must_be_named(transport: str) -> None:
    shared = SATA.model_copy(update={"transport": transport, "wwn": WWN})
    alone = machine(shared)
    found = choose(alone, want(path="/dev/sd*"))
    assert isinstance(found, Problem)
    assert f"is attached by {transport} and not named" in found.message
    ways = {"transport": transport, "serial": "S1", "wwn": WWN, "path": "/dev/sda"}
    for key, value in ways.items():
        wanted = Disks.model_validate({"count": 1, "where": {key: value}})
        assert choose(alone, wanted) == (shared,)
    assert isinstance(choose(alone, want(transport=transport, serial="other")), Problem)


def test_a_slot_is_named_by_its_path() -> None:
    slot = "/dev/disk/by-path/pci-0000:00:1f.2-ata-1"
    here = SATA.model_copy(update={"by_path": (slot,)})
    assert choose(machine(NVME, here), want(path=slot)) == (here,)
    assert choose(machine(NVME, here), want(path="/dev/disk/by-path/*-ata-1")) == (here,)


DISKS = st.builds(
    Disk,
    path=st.sampled_from([f"/dev/sd{letter}" for letter in "abcdef"]),
    serial=st.sampled_from([None, "S1", "S2", "S3"]),
    wwn=st.sampled_from([None, "eui.0", "0x51", "0x52"]),
    model=st.sampled_from([None, "M1", "M2"]),
    size=st.sampled_from([32 * GB, 400 * GB, 960 * GB]),
    transport=st.sampled_from(["nvme", "sata", "sas", "usb", "fc", "iscsi"]),
    rotational=st.booleans(),
    boot_medium=st.booleans(),
    read_only=st.booleans(),
    controller=st.sampled_from([None, HBA.format("01"), HBA.format("02")]),
)
WHERES = st.fixed_dictionaries(
    {},
    optional={
        "transport": st.sampled_from(["nvme", "sata", "usb", "fc"]),
        "size": st.sampled_from([">= 400 GB", "< 960 GB", "== 400 GB"]),
        "rotational": st.booleans(),
        "model": st.sampled_from(["M1", "M2"]),
        "path": st.sampled_from(["/dev/sd*", "/dev/sda"]),
    },
)


@given(
    st.lists(DISKS, max_size=6, unique_by=lambda disk: disk.path),
    WHERES,
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_any_disks_and_any_wish_give_as_many_sound_disks_or_a_problem_with_all_of_them(
    disks: list[Disk], where: dict[str, object], count: int, apart: bool
) -> None:
    asked = {"count": count, "where": where, "on_different_controllers": apart and count > 1}
    try:
        wanted = Disks.model_validate(asked)
    except ValidationError:
        return  # one path named, two disks counted
    found = choose(machine(*disks), wanted)
    if isinstance(found, Problem):
        named = found.message if "this machine has" in found.message else ""
        assert not named or all(disk.path in named for disk in disks)
        return
    assert len(found) == count == len({disk.path for disk in found})
    for disk in found:
        assert list(reasons_against(disk, wanted.where)) == []
        assert not disk.read_only
    assert not any(same_device(one, other) for one, other in combinations(found, 2))
    if wanted.on_different_controllers:
        assert len({disk.controller for disk in found}) == count


def test_the_order_of_a_mirror_is_the_plans_and_not_the_kernels() -> None:
    assert choose(machine(NVME, SATA), want(2, serial=["S1", "N1"])) == (SATA, NVME)
    assert choose(machine(SATA, NVME), want(2)) == (NVME, SATA)


@given(st.permutations([NVME, SATA, STICK]))
def test_the_choice_does_not_depend_on_the_order_of_discovery(disks: list[Disk]) -> None:
    assert choose(machine(*disks), want(2)) == (NVME, SATA)


THEN = datetime(2026, 11, 20, 23, tzinfo=UTC)
FOREIGN = SATA.model_copy(
    update={
        "content": (
            Content(device="/dev/sda1", kind="ext4", label="pgdata", size=GB, last_used=THEN),
        )
    }
)
OURS = SATA.model_copy(
    update={
        "content": (
            Content(device="/dev/sda", kind="gpt", size=GB),
            Content(device="/dev/sda1", kind="vfat", size=GB, partition_name="bedplate-esp"),
        )
    }
)


def test_foreign_data_is_refused_by_default_and_named() -> None:
    problem = may_erase(FOREIGN, "refuse-foreign", "m")
    assert problem is not None
    assert '/dev/sda1: ext4, 954 MiB, label "pgdata", last used 2026-11-20' in problem.message
    assert "disks.erase: any" in problem.message
    assert may_erase(FOREIGN, "any", "m") is None


def test_blank_disks_and_our_own_leftovers_may_be_erased_by_default() -> None:
    assert may_erase(SATA, "refuse-foreign", "m") is None
    assert may_erase(OURS, "refuse-foreign", "m") is None


@pytest.mark.parametrize(
    "stranger",
    [
        Content(device="/dev/sda2", kind="ext4", size=GB),
        Content(device="/dev/sda2", kind="ext4", size=GB, partition_name="data"),
        Content(device="/dev/sda", kind="zfs_member", size=GB),
    ],
)
def test_a_disk_of_ours_with_something_of_others_beside_is_foreign(stranger: Content) -> None:
    mixed = OURS.model_copy(update={"content": (*OURS.content, stranger)})
    assert may_erase(mixed, "refuse-foreign", "m") is not None


def test_a_disk_full_of_partitions_is_named_by_the_first_and_a_count() -> None:
    full = SATA.model_copy(update={"content": FOREIGN.content * 6})
    problem = may_erase(full, "refuse-foreign", "m")
    assert problem is not None
    assert problem.message.count("/dev/sda1") == 4
    assert "; and 2 more)" in problem.message


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (timedelta(minutes=119), "within the last two hours"),
        (timedelta(hours=47), "47 hours ago"),
        (timedelta(days=2), "2 days ago"),
        (timedelta(days=75), "2 months ago"),
        (timedelta(days=729), "23 months ago"),
        (timedelta(days=1500), "4 years ago"),
        (-timedelta(hours=3), "within the last two hours"),
    ],
)
def test_what_will_be_lost_has_its_age(passed: timedelta, words: str) -> None:
    (line,) = losses(FOREIGN, THEN + passed)
    assert line.endswith(f'label "pgdata", last used 2026-11-20, {words}')


def test_owned_takes_only_a_finished_installation_of_this_machine() -> None:
    marker = Marker(plan=UUID(int=1), hostname="h", machine="m", finished="2026-11-22T00:00:00Z")
    mine = OURS.model_copy(update={"marker": marker})
    assert may_erase(mine, "owned", "m") is None
    assert may_erase(mine, "owned", "other") is not None
    assert may_erase(OURS, "owned", "m") is not None
    assert may_erase(SATA, "owned", "m") is not None


def test_a_disk_in_use_is_refused_whatever_erase_says() -> None:
    used = SATA.model_copy(update={"in_use": ("mounted at /mnt",)})
    problem = may_erase(used, "any", "m")
    assert problem is not None
    assert "mounted at /mnt" in problem.message
