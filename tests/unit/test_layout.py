"""The layout: aligned, inside the disk, without overlap, with every mount, or problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Problem
from agent.inventory.model import Disk
from agent.layout.extents import GIB, MIB, after_md, unused
from agent.layout.lvm import mapper_path, volume_name
from agent.layout.model import Layout, Role
from agent.layout.picture import tree
from agent.layout.place import Names, place
from agent.layout.share import Want, share
from agent.plan.size import Percent
from agent.plan.wish import Grow, PartitionWish, StorageWish, TmpfsWish, VolumeWish

NAMES = Names(UUID(int=7), "CZ1234")
EXTENT = 4 * MIB


def disk(size: int, path: str = "/dev/vda") -> Disk:
    return Disk(path=path, size=size, serial=path[-1])


def wishes(*volumes: VolumeWish) -> StorageWish:
    return StorageWish(
        preset="plain",
        volume_group="vg0",
        volumes=volumes,
        tmpfs=(TmpfsWish("/dev/shm", ("nodev", "nosuid", "noexec")),),
        boot=PartitionWish("/boot", GIB, "ext4", ("nodev", "nosuid")),
        esp=PartitionWish("/boot/efi", GIB, "vfat", ("nodev", "nosuid")),
        deviations=(),
    )


def volume(mount: str, size: int | Percent | Grow, minimum: int = 0) -> VolumeWish:
    return VolumeWish(mount, size, minimum, "xfs", ("defaults",))


MOUNTS = ("/", "/home", "/tmp", "/var", "/var/log", "/var/log/audit", "/var/tmp")


@st.composite
def wanted(draw: st.DrawFn) -> tuple[VolumeWish, ...]:
    mounts = ("/", *draw(st.sets(st.sampled_from(MOUNTS[1:]))))
    kinds = st.one_of(
        st.integers(1, 40 * GIB),
        st.builds(Percent, st.decimals("0.1", "60", places=1)),
        st.builds(Grow, st.integers(1, 5)),
    )
    return tuple(volume(mount, draw(kinds), draw(st.integers(0, GIB))) for mount in mounts)


@given(st.lists(st.integers(1 * MIB, 32 * 1024 * GIB), min_size=1, max_size=2), wanted())
def test_any_disks_and_wishes_give_a_sound_layout_or_problems(
    sizes: list[int], wants: tuple[VolumeWish, ...]
) -> None:
    disks = [disk(size, f"/dev/vd{chr(97 + i)}") for i, size in enumerate(sizes)]
    layout = place(disks, wishes(*wants), NAMES, encrypted=True)
    if isinstance(layout, list):
        assert layout
        return
    for laid in layout.disks:
        end = MIB
        for partition in laid.partitions:
            assert partition.start == end, "partitions follow each other without a gap"
            assert partition.start % MIB == 0
            assert partition.size > 0
            assert partition.size % MIB == 0
            end = partition.end
        assert end <= laid.disk.size - MIB, "the backup GPT has room"
    assert {v.filesystem.mount for v in layout.group.volumes} == {want.mount for want in wants}
    assert all(v.size % EXTENT == 0 and v.size > 0 for v in layout.group.volumes)
    assert layout.group.free >= 0
    assert layout.group.size < layout.disks[0].partition(Role.ROOT).size
    identities = [p.partuuid for d in layout.disks for p in d.partitions]
    assert len(set(identities)) == len(identities)


def laid(
    sizes: Sequence[int], *volumes: VolumeWish, **storage: int | Percent
) -> Layout | list[Problem]:
    disks = [disk(size, f"/dev/vd{chr(97 + i)}") for i, size in enumerate(sizes)]
    wanted = replace(wishes(*volumes), **storage)  # type: ignore[arg-type]
    return place(disks, wanted, NAMES, encrypted=True)


def laid_out(*sizes: int) -> Layout:
    disks = [disk(size, f"/dev/vd{chr(97 + i)}") for i, size in enumerate(sizes)]
    layout = place(
        disks, wishes(volume("/", Grow()), volume("/var", 3 * GIB)), NAMES, encrypted=True
    )
    assert isinstance(layout, Layout)
    return layout


def test_the_legs_of_a_mirror_are_cut_alike_by_the_smaller_disk() -> None:
    layout = laid_out(40 * GIB, 32 * GIB)
    first, second = layout.disks
    assert [(p.start, p.size) for p in first.partitions] == [
        (p.start, p.size) for p in second.partitions
    ]
    assert layout.array(Role.ROOT).metadata == "1.2"
    assert layout.array(Role.BOOT).metadata == "1.0"
    assert not layout.array(Role.BOOT).bitmap


def test_one_disk_has_no_arrays_and_encrypts_the_partition() -> None:
    layout = laid_out(32 * GIB)
    assert not layout.mirrored
    assert layout.luks is not None
    assert layout.luks.device == layout.disks[0].partition(Role.ROOT).path
    assert layout.boot.device == layout.disks[0].partition(Role.BOOT).path


def test_the_growing_volume_takes_what_the_others_leave() -> None:
    layout = laid_out(32 * GIB, 32 * GIB)
    assert layout.group.free < EXTENT
    sizes = {v.filesystem.mount: v.size for v in layout.group.volumes}
    assert sizes["/var"] == 3 * GIB
    assert sizes["/"] > 25 * GIB


def test_a_disk_that_is_too_small_is_named_with_both_sizes() -> None:
    problems = place([disk(4 * GIB)], wishes(volume("/", Grow())), NAMES, encrypted=True)
    assert isinstance(problems, list)
    assert "/dev/vda" in str(problems[0])
    assert "4.0 GiB" in str(problems[0])
    assert "6.0 GiB" in str(problems[0])


def test_volumes_that_do_not_fit_say_how_much_is_missing_and_which_are_largest() -> None:
    problems = share([Want("/", size=10 * GIB), Want("/var", size=20 * GIB)], 25 * GIB, EXTENT)
    assert isinstance(problems, list)
    assert str(problems[0]) == (
        "storage.volumes: need 30.0 GiB together, the volume group has 25.0 GiB "
        "(the largest: /var 20.0 GiB, / 10.0 GiB)"
    )


WANTS = st.lists(
    st.one_of(
        st.builds(Want, st.just(""), size=st.integers(1, 40 * GIB)),
        st.builds(
            Want, st.just(""), percent=st.builds(Percent, st.decimals("0.1", "60", places=1))
        ),
        st.builds(Want, st.just(""), grow=st.integers(1, 5), maximum=st.integers(GIB, 9 * GIB)),
    ),
    min_size=1,
).map(lambda wants: [replace(want, mount=f"/{i}") for i, want in enumerate(wants)])


@given(WANTS, st.integers(1, 20000), st.integers(0, 10000))
def test_sharing_never_gives_more_than_there_is(
    wants: list[Want], extents: int, leave: int
) -> None:
    total = extents * EXTENT
    sizes = share(wants, total, EXTENT, leave * MIB)
    if isinstance(sizes, list):
        return
    assert sum(sizes.values()) <= total - leave * MIB
    assert all(size >= EXTENT and size % EXTENT == 0 for size in sizes.values())
    for want in wants:
        assert want.maximum is None or sizes[want.mount] <= want.maximum


def test_a_maximum_bounds_growth_and_the_rest_goes_to_the_others() -> None:
    wants = [Want("/", grow=1), Want("/home", grow=1, maximum=GIB)]
    sizes = share(wants, 10 * GIB, EXTENT)
    assert not isinstance(sizes, list)
    assert sizes == {"/": 9 * GIB, "/home": GIB}


def test_what_the_others_leave_is_shared_by_weight() -> None:
    wants = [Want("/", size=GIB), Want("/a", grow=1, minimum=GIB), Want("/b", grow=3)]
    sizes = share(wants, 10 * GIB + EXTENT, EXTENT)
    assert not isinstance(sizes, list)
    assert sizes["/a"] - GIB == 2 * GIB
    assert sizes["/b"] - EXTENT == 6 * GIB


def test_a_volume_that_may_not_grow_leaves_the_rest_free() -> None:
    wants = [Want("/", size=GIB), Want("/a", grow=1, minimum=2 * GIB, maximum=2 * GIB)]
    assert share(wants, 10 * GIB, EXTENT) == {"/": GIB, "/a": 2 * GIB}


def test_what_shall_stay_free_stays_free_and_is_named_where_it_does_not_fit() -> None:
    layout = laid([32 * GIB], volume("/", Grow()), leave=Percent(Decimal(25)))
    assert isinstance(layout, Layout)
    assert 0 <= layout.group.free - layout.group.size // 4 < EXTENT
    problems = laid([32 * GIB], volume("/", 29 * GIB), leave=4 * GIB)
    assert isinstance(problems, list)
    assert "of which 4.0 GiB shall stay free" in str(problems[0])


def test_swap_is_a_volume_that_is_never_mounted() -> None:
    layout = laid([32 * GIB], volume("/", Grow()), swap=2 * GIB)
    assert isinstance(layout, Layout)
    (swap,) = layout.swaps
    assert (swap.kind, swap.mount, str(swap.device)) == ("swap", "none", "/dev/mapper/vg0-swap")
    assert next(v.size for v in layout.group.volumes if v.filesystem is swap) == 2 * GIB
    assert swap not in layout.filesystems
    assert swap in layout.formatted


def test_a_volume_that_would_be_called_swap_too_is_a_problem() -> None:
    problems = laid([32 * GIB], volume("/", Grow()), volume("/swap", GIB), swap=2 * GIB)
    assert isinstance(problems, list)
    assert "would both be the logical volume swap" in str(problems[0])


@pytest.mark.parametrize(("sector", "least"), [(512, 33), (4096, 257)])
def test_an_esp_that_cannot_be_fat32_on_a_disk_of_large_sectors_is_a_problem(
    sector: int, least: int
) -> None:
    disks = [disk(32 * GIB), disk(32 * GIB, "/dev/vdb").model_copy(update={"sector_size": sector})]
    for size, good in ((least * MIB, True), ((least - 1) * MIB, False)):
        wanted = replace(wishes(volume("/", Grow())), esp=PartitionWish("/boot/efi", size, "vfat"))
        placed = place(disks, wanted, NAMES, encrypted=True)
        assert isinstance(placed, Layout) is good
        assert good or f"FAT32 needs {least} MiB" in str(placed)


def test_a_mirror_of_three_has_three_members_and_three_esps() -> None:
    layout = laid([32 * GIB, 40 * GIB, 36 * GIB], volume("/", Grow()))
    assert isinstance(layout, Layout)
    assert [len(array.members) for array in layout.arrays] == [3, 3]
    assert [esp.mount for esp in layout.esps] == ["/boot/efi", "/boot/efi2", "/boot/efi3"]
    assert [unused(each) for each in layout.disks] == [0, 8 * GIB, 4 * GIB]
    shown = "\n".join(tree(layout))
    assert shown.count("(unused)") == 2
    assert "8.0 GiB  more than the smallest of these disks has" in shown


def test_only_ext4_is_checked_at_boot() -> None:
    wants = (
        VolumeWish("/", Grow(), GIB, "btrfs"),
        VolumeWish("/a", GIB, GIB, "ext4"),
        VolumeWish("/b", GIB, GIB, "xfs"),
    )
    layout = laid([32 * GIB], *wants)
    assert isinstance(layout, Layout)
    assert [v.filesystem.passno for v in layout.group.volumes] == [0, 2, 0]


def test_the_same_plan_on_the_same_machine_gives_the_same_layout() -> None:
    assert laid_out(32 * GIB, 32 * GIB) == laid_out(32 * GIB, 32 * GIB)


def test_two_machines_with_one_plan_id_share_no_uuid() -> None:
    other = Names(NAMES.plan, "CZ9999")
    assert NAMES.uuid("luks") != other.uuid("luks")


def test_volumes_are_named_after_their_mount_points() -> None:
    assert volume_name("/") == "root"
    assert volume_name("/var/log/audit") == "var_log_audit"
    assert str(mapper_path("my-vg", "a-b")) == "/dev/mapper/my--vg-a--b"


@given(st.integers(64 * MIB, 32 * 1024 * GIB))
def test_an_array_is_smaller_than_its_members_by_what_metadata_takes(member: int) -> None:
    assert member - 133 * MIB <= after_md(member) < member
