"""Storage steps and checks against stateful fakes; the pure parts of the storage adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from agent.checks.disks import ErasableDisks, UniqueNames
from agent.errors import StepError
from agent.inventory.model import Content, Disk
from agent.layout.extents import GIB
from agent.layout.model import Layout
from agent.layout.place import Names, place
from agent.plan.wish import Grow, PartitionWish, StorageWish, VolumeWish
from agent.secret import Secret
from agent.steps.base import Evidence, Step
from agent.steps.clear_disks import ClearDisks
from agent.steps.close_target import CloseTarget
from agent.steps.encrypt_root import EncryptRoot
from agent.steps.make_filesystems import MakeFilesystems
from agent.steps.make_volumes import MakeVolumes
from agent.steps.mirror_disks import MirrorDisks
from agent.steps.mount_target import MountTarget
from agent.steps.partition_disks import PartitionDisks
from tests.unit.fakes_storage import FakeMounts, FakeStorage, storage_machine

A, B, C = (
    Disk(path=f"/dev/vd{letter}", serial=f"S{letter}", wwn=None, size=32 * GIB) for letter in "abc"
)
ROOT = Path("/run/bedplate/target")
KEY = Secret("0123456789abcdef" * 4)
MOUNTS = ("/", "/home", "/var", "/var/log")


def layout(*disks: Disk, group: str = "vg0", encrypted: bool = True) -> Layout:
    sizes: dict[str, int | Grow] = {"/": 8 * GIB, "/home": GIB, "/var": Grow(), "/var/log": GIB}
    wish = StorageWish(
        preset="plain",
        volume_group=group,
        volumes=tuple(VolumeWish(mount, sizes[mount], GIB, "xfs") for mount in MOUNTS),
        tmpfs=(),
        boot=PartitionWish("/boot", GIB, "ext4"),
        esp=PartitionWish("/boot/efi", GIB, "vfat"),
        deviations=(),
    )
    placed = place(disks, wish, Names(UUID(int=7), "m"), encrypted=encrypted)
    assert isinstance(placed, Layout), placed
    return placed


def storage(*disks: Disk, zeroing: Sequence[Disk] = ()) -> FakeStorage:
    return FakeStorage(
        {Path(disk.path): (disk.serial, disk.wwn, disk.size) for disk in disks},
        zeroing=frozenset(Path(disk.path) for disk in zeroing),
    )


def steps(where: Layout) -> list[Step]:
    """What resolve makes of a layout, as far as storage goes."""
    everything: list[Step] = [
        ClearDisks(tuple(d.disk for d in where.disks)),
        PartitionDisks(where.disks),
    ]
    if where.arrays:
        everything.append(MirrorDisks(where.arrays))
    if where.luks:
        everything.append(EncryptRoot(where.luks, KEY))
    everything += [
        MakeVolumes(where.group),
        MakeFilesystems(where.filesystems),
        MountTarget(where.filesystems, ROOT),
    ]
    return everything


def silent(done: int, total: int) -> None:
    assert done <= total


def carry_out(todo: Sequence[Step], port: FakeStorage, mounts: FakeMounts) -> list[Evidence]:
    machine = storage_machine(port, mounts)
    return [step.apply(machine, silent) for step in todo]


@pytest.mark.parametrize("disks", [(A,), (A, B)], ids=["one disk", "mirror"])
@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_the_steps_of_a_layout_leave_every_file_system_mounted(
    disks: tuple[Disk, ...], encrypted: bool
) -> None:
    where, port = layout(*disks, encrypted=encrypted), storage(*disks)
    mounts = FakeMounts(port)
    carry_out(steps(where), port, mounts)
    expected = {ROOT / fs.mount.lstrip("/") for fs in where.filesystems}
    assert set(mounts.mounted_at) == expected
    assert all(port.formats[fs.device] == (fs.kind, fs.uuid) for fs in where.filesystems)


def test_the_key_opens_the_volume_and_appears_in_no_evidence() -> None:
    where, port = layout(A, B), storage(A, B)
    todo = steps(where)
    evidence = carry_out(todo, port, FakeMounts(port))
    assert where.luks is not None
    assert port.keys == {where.luks.device: KEY}
    assert KEY.text not in json.dumps(evidence)
    assert KEY.text not in repr(todo)
    assert not any(KEY.text in step.describe() for step in todo)


def test_a_disk_exchanged_after_it_was_chosen_is_not_erased() -> None:
    port = storage(A.model_copy(update={"serial": "other"}))
    port.content[Path(A.path)] = "ext4"
    with pytest.raises(StepError, match="serial was Sa, is other"):
        ClearDisks((A,)).apply(storage_machine(port), silent)
    assert port.content == {Path(A.path): "ext4"}
    assert port.calls == []


def test_what_was_removed_is_evidence() -> None:
    port = storage(A)
    port.content[Path(A.path)] = "LVM2_member on /dev/vda2"
    evidence = ClearDisks((A,)).apply(storage_machine(port), silent)
    assert evidence["removed"] == ["LVM2_member on /dev/vda2"]


@pytest.mark.parametrize(("zeroing", "resync"), [((A, B), False), ((A,), True), ((), True)])
def test_arrays_resynchronise_unless_both_disks_are_proven_zero(
    zeroing: tuple[Disk, ...], resync: bool
) -> None:
    port = storage(A, B, zeroing=zeroing)
    evidence = carry_out(steps(layout(A, B))[:3], port, FakeMounts(port))[-1]
    arrays = evidence["arrays"]
    assert isinstance(arrays, list)
    assert [a["must_resync"] for a in arrays if isinstance(a, dict)] == [resync, resync]


def test_the_resync_is_held_from_the_first_array_on_and_released_at_the_end() -> None:
    where, port = layout(A, B), storage(A, B)
    mounts = FakeMounts(port)
    carry_out(steps(where), port, mounts)
    assert [mirror.sync for mirror in port.kernel.mirrors()] == ["frozen", "frozen"]
    evidence = CloseTarget(ROOT).apply(storage_machine(port, mounts), silent)
    assert evidence["mirrors"] == [
        {"name": "boot", "members": 2, "active": 2},
        {"name": "root", "members": 2, "active": 2},
    ]
    assert mounts.mounted_at == {}
    assert port.kernel.mirrors() == ()
    assert port.calls[-1] == "release"


def test_a_second_run_over_the_first_starts_clean() -> None:
    where, port = layout(A, B), storage(A, B)
    mounts = FakeMounts(port)
    carry_out(steps(where)[:4], port, mounts)
    port.release()
    port.content[Path(A.path)] = "gpt"
    carry_out(steps(where), port, mounts)
    assert len(mounts.mounted_at) == len(where.filesystems)


def test_every_step_says_what_it_will_do_in_one_line() -> None:
    lines = [step.describe() for step in (*steps(layout(A, B)), CloseTarget(ROOT))]
    assert lines == [
        (
            "Erase everything on /dev/vda (no model, serial Sa) of 32.0 GiB, "
            "/dev/vdb (no model, serial Sb) of 32.0 GiB"
        ),
        "Write a GPT to /dev/vda and /dev/vdb: esp 1.0 GiB, boot 1.0 GiB, root 30.0 GiB",
        "Mirror boot (1019 MiB, metadata 1.0), root (30.0 GiB, metadata 1.2) over 2 disks",
        "Encrypt /dev/md/root as LUKS2 (aes-xts-plain64, 512 bit)",
        (
            "Make the volume group vg0 on /dev/mapper/bedplate-root: "
            "root 8.0 GiB, home 1.0 GiB, var 20.0 GiB, var_log 1.0 GiB"
        ),
        "Make 7 file systems: 1 ext4, 2 vfat, 4 xfs",
        "Mount 7 file systems below /run/bedplate/target",
        "Unmount /run/bedplate/target and close the volumes, the encryption and the mirrors",
    ]


def test_usable_disks_raise_no_problem() -> None:
    assert list(ErasableDisks((A, B)).problems(storage_machine(storage(A, B)))) == []


def test_every_reason_why_a_disk_cannot_be_erased_is_named() -> None:
    bad = A.model_copy(
        update={
            "read_only": True,
            "in_use": ("/dev/vda1 is mounted at /mnt",),
            "wwn": "eui.1",
        }
    )
    found = ErasableDisks((bad, B)).problems(storage_machine(storage(A)))
    assert [str(problem) for problem in found] == [
        "/dev/vda: is not the disk that was chosen: WWN was eui.1, is None",
        "/dev/vda: is read-only, look at the drive's write protection",
        "/dev/vda: is in use: /dev/vda1 is mounted at /mnt",
        "/dev/vdb: cannot be looked at any more: /dev/vdb: is gone",
    ]


def test_names_that_another_disk_carries_are_refused() -> None:
    other = C.model_copy(
        update={
            "volume_groups": ("vg0", "data"),
            "content": (
                Content(device="/dev/vdc1", kind="linux_raid_member", label="nas:root", size=GIB),
                Content(device="/dev/vdc2", kind="linux_raid_member", label="swap", size=GIB),
            ),
        }
    )
    found = UniqueNames(layout(A, B), (other,)).problems(storage_machine(storage()))
    assert [str(problem) for problem in found] == [
        (
            "storage.volume_group: /dev/vdc (no model, serial Sc) has a volume group vg0 too; "
            "choose another name"
        ),
        (
            "/dev/vdc: belongs to an md array named root, as one of the new arrays will be; "
            "erase or remove that disk"
        ),
    ]


def test_a_disk_left_over_from_an_earlier_installation_by_the_same_plan_is_refused() -> None:
    where = layout(A, B)
    left = Content(
        device="/dev/vdc3",
        kind="linux_raid_member",
        uuid=str(where.arrays[1].uuid),
        label="old",
        size=GIB,
    )
    other = C.model_copy(update={"content": (left,)})
    (problem,) = UniqueNames(where, (other,)).problems(storage_machine(storage()))
    assert problem.where == "/dev/vdc3"
    assert str(where.arrays[1].uuid) in problem.message


def test_a_group_whose_volume_would_hide_the_encrypted_one_is_refused() -> None:
    where = layout(A, group="bedplate")
    (problem,) = UniqueNames(where, ()).problems(storage_machine(storage()))
    assert problem.where == "storage.volume_group"
    free = replace(where, luks=None)
    assert list(UniqueNames(free, ()).problems(storage_machine(storage()))) == []
