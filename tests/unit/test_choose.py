"""The right disks, or a problem that shows every disk with its reason."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Problem
from agent.inventory.choose import choose, may_erase
from agent.inventory.model import Content, Disk, Firmware, Inventory, Marker
from agent.plan.disks import Disks

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
    assert problem.message == (
        "0 match, the plan counts 1; this machine has /dev/nvme0n1 (SN850, serial N1), 894.1 GiB: "
        "serial is N1, not X9; /dev/sda (no model, serial S1), 3725.3 GiB: serial is S1, not X9"
    )


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


def test_the_order_of_a_mirror_is_the_plans_and_not_the_kernels() -> None:
    assert choose(machine(NVME, SATA), want(2, serial=["S1", "N1"])) == (SATA, NVME)
    assert choose(machine(SATA, NVME), want(2)) == (NVME, SATA)


@given(st.permutations([NVME, SATA, STICK]))
def test_the_choice_does_not_depend_on_the_order_of_discovery(disks: list[Disk]) -> None:
    assert choose(machine(*disks), want(2)) == (NVME, SATA)


FOREIGN = SATA.model_copy(
    update={"content": (Content(device="/dev/sda1", kind="ext4", label="pgdata", size=GB),)}
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
    assert '/dev/sda1 ext4 "pgdata"' in problem.message
    assert "disks.erase: any" in problem.message
    assert may_erase(FOREIGN, "any", "m") is None


def test_blank_disks_and_our_own_leftovers_may_be_erased_by_default() -> None:
    assert may_erase(SATA, "refuse-foreign", "m") is None
    assert may_erase(OURS, "refuse-foreign", "m") is None


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
