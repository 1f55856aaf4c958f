"""Checks of the machine and of the image's size."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from agent.checks.image import ImageFits
from agent.checks.machine import LEAST_MEMORY, AbleMachine, RightMachine, StillValid
from agent.inventory.model import Disk, Dmi, Firmware, Inventory, Nic
from agent.layout.extents import GIB, MIB
from agent.layout.model import Layout
from agent.layout.place import Names, place
from agent.machine import Machine
from agent.payload.contents import Need, Tree
from agent.payload.manifest import Chunk, Manifest, Payload
from agent.plan.identity import Identity
from agent.plan.wish import Grow, PartitionWish, StorageWish, VolumeWish

NOTHING = cast("Machine", None)
HERE = Inventory(
    firmware=Firmware(uefi=True),
    memory=4 * GIB,
    dmi=Dmi(serial="CZ1", uuid=UUID(int=9)),
    nics=(Nic(name="eth0", mac="52:54:00:00:00:01"),),
)


def test_every_name_in_the_plan_must_be_this_machines() -> None:
    right = Identity(mac="52:54:00:00:00:01", serial="CZ1", uuid=UUID(int=9))
    assert list(RightMachine(right, HERE).problems(NOTHING)) == []


def test_a_plan_for_another_machine_is_refused_with_both_names() -> None:
    wrong = Identity(mac="52:54:00:00:00:02", serial="CZ2", uuid=UUID(int=10))
    assert [str(problem) for problem in RightMachine(wrong, HERE).problems(NOTHING)] == [
        "machine.mac: the plan is for 52:54:00:00:00:02, this machine has 52:54:00:00:00:01",
        "machine.serial: the plan is for CZ2, this machine is CZ1",
        f"machine.uuid: the plan is for {UUID(int=10)}, this machine is {UUID(int=9)}",
    ]


def test_legacy_bios_and_too_little_memory_are_named() -> None:
    weak = HERE.model_copy(update={"firmware": Firmware(uefi=False), "memory": GIB // 2})
    found = [str(problem) for problem in AbleMachine(weak).problems(NOTHING)]
    assert len(found) == 2
    assert "set its firmware to UEFI" in found[0]
    assert "512 MiB" in found[1]


def test_as_much_memory_as_was_proven_is_enough_and_less_is_refused_with_both_sizes() -> None:
    enough = HERE.model_copy(update={"memory": LEAST_MEMORY})
    assert list(AbleMachine(enough).problems(NOTHING)) == []
    least = LEAST_MEMORY // MIB
    less = HERE.model_copy(update={"memory": LEAST_MEMORY - MIB})
    assert [str(problem) for problem in AbleMachine(less).problems(NOTHING)] == [
        f"machine: has {least - 1} MiB of memory, an installation needs {least} MiB"
    ]


def test_an_expired_plan_names_both_times() -> None:
    check = StillValid(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    (problem,) = check.problems(NOTHING)
    assert "2026-01-01T00:00:00Z" in problem.message
    assert "2026-01-02T00:00:00Z" in problem.message
    assert list(StillValid(None, datetime(2026, 1, 2, tzinfo=UTC)).problems(NOTHING)) == []


def manifest(**directories: int) -> Manifest:
    return Manifest(
        version=1,
        name="debian",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        kind="tree",
        size=512,
        sha256="0" * 64,
        chunk_size=4 << 20,
        digest="sha256",
        payload=Payload(urls=("debian.tar.zst",), size=100),
        tree=Tree(
            programs={},
            members=1,
            directories={
                "/" + path.replace("_", "/"): Need(bytes=size, inodes=100)
                for path, size in directories.items()
            },
            links=(("/usr/bin", "/var/lib"),),
        ),
        chunks=(Chunk(0, 512, 0, 100, "0" * 64),),
    )


def layout() -> Layout:
    wishes = StorageWish(
        preset="plain",
        volume_group="vg0",
        volumes=(
            VolumeWish("/", 5 * GIB, 0, "xfs"),
            VolumeWish("/var", Grow(), 0, "ext4"),
        ),
        tmpfs=(),
        boot=PartitionWish("/boot", GIB, "ext4"),
        esp=PartitionWish("/boot/efi", GIB, "vfat"),
        deviations=(),
    )
    laid = place(
        [Disk(path="/dev/vda", size=12 * GIB)], wishes, Names(UUID(int=1), "m"), encrypted=True
    )
    assert isinstance(laid, Layout)
    return laid


def test_an_image_larger_than_a_volume_is_refused_with_both_sizes() -> None:
    big = manifest(**{"": 6 * GIB, "var": GIB // 4})
    problems = [str(p) for p in ImageFits(big, layout(), GIB).problems(NOTHING)]
    assert problems[0] == (
        "/: the image debian needs 5.8 GiB there, the volume has 5.0 GiB (4.6 GiB for files)"
    )


def test_what_lies_below_another_mount_point_does_not_count_twice() -> None:
    split = manifest(**{"": 6 * GIB, "var": 3 * GIB})
    problems = [str(p) for p in ImageFits(split, layout(), GIB).problems(NOTHING)]
    assert not any("needs" in problem for problem in problems)


def test_a_hard_link_across_volumes_is_refused() -> None:
    (problem,) = ImageFits(manifest(**{"": GIB}), layout(), GIB).problems(NOTHING)
    assert "/usr/bin" in problem.message
    assert "/var/lib" in problem.message
