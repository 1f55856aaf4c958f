"""Whatever the machine and the plan: a sound layout with every mount asked for, or problems.

The plans go through the parser's types and the disks through the choice, as in a preview.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any, cast
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from agent.adapters.storage.table import script
from agent.errors import Problem
from agent.inventory.choose import same_device
from agent.inventory.model import Content, Disk, Firmware, Inventory
from agent.layout.data import place_data
from agent.layout.drawing import drawing
from agent.layout.extents import GIB, MIB, smallest_esp
from agent.layout.model import DataLayout, Layout
from agent.layout.picture import losses, plain, tree
from agent.layout.place import Names
from agent.layout.whole import Whole
from agent.plan.catalog import BUILT_IN
from agent.plan.data import DataArray
from agent.plan.filesystem import SMALLEST
from agent.plan.model import Plan
from agent.plan.size import Percent
from agent.plan.wish import StorageWish, wish
from agent.resolve import lay_out
from agent.target.crypttab import crypttab
from agent.target.fstab import fstab
from agent.target.mdadm_conf import mdadm_conf
from tests.unit.plan.plans import encrypted, optional, options, shares, small

EXTENT = 4 * MIB
LARGEST = 32 * 10**12
# Any size at all, sizes where presets begin to fit, and sizes that fit.
ANY = st.integers(1, 44).flatmap(lambda bits: st.integers(1, 1 << bits))
SIZES = st.one_of(
    *(st.integers(32 * 10**9, largest) for largest in (10**11, 10**12, LARGEST)),
    st.integers(6 * GIB, 40 * GIB),
    ANY,
).map(lambda size: min(size, LARGEST) // 4096 * 4096)


ONE_IN_FIVE = st.integers(0, 4).map(lambda number: number == 4)


@st.composite
def disks(draw: st.DrawFn, number: int, model: str = "system") -> Disk:
    foreign = draw(ONE_IN_FIVE)
    content = Content(device=f"/dev/sd{number}1", kind="xfs", size=1, label="x")
    return Disk(
        path=f"/dev/sd{number}",
        serial=draw(st.sampled_from([f"S{number}", None])),
        model=model,
        wwn="0x5f" if draw(ONE_IN_FIVE) else draw(st.sampled_from([f"0x5{number}", None])),
        size=draw(SIZES),
        sector_size=draw(st.sampled_from([512, 4096])),
        transport=draw(st.sampled_from(["nvme", "sata", "sas"])),
        rotational=draw(ONE_IN_FIVE),
        content=(content,) if foreign else (),
        controller=draw(st.sampled_from([None, "/sys/a", "/sys/b"])),
    )


@st.composite
def machines(draw: st.DrawFn, wanted: int, further: Sequence[str]) -> Inventory:
    count = draw(st.integers(0, 5)) if draw(ONE_IN_FIVE) else wanted
    found = [draw(disks(number)) for number in range(count)]
    found += [draw(disks(10 + at, model)) for at, model in enumerate(further)]
    return Inventory(firmware=Firmware(uefi=True), memory=4 * GIB, disks=tuple(found))


USUAL = ("/", "/home", "/var", "/var/log/audit", "/srv", "/srv/a", "/opt/b")
CLASHING = ("/swap", "/boot/efi2", "/srv_a")
SOME = st.integers(16 * MIB, 9 * GIB)
OWN = {
    "name": "ours",
    "extends": "stig-rhel9",
    "volumes": [{"mount": "/srv", "size": "1 GiB"}, {"mount": "/home", "without": ["noexec"]}],
    "boot": {"size": "512 MiB"},
    "without": ["/var/tmp"],
}


ON_DATA = {"pgdata": ("/var/lib/pgsql", "/var/lib/pgsql/wal"), "media": ("/media/a", "/media/b")}
OF_LEVEL = {"single": (1,), "raid1": (2, 3), "raid10": (4, 5, 7)}


@st.composite
def arrays_of_data(draw: st.DrawFn) -> dict[str, Any]:
    name, level = draw(st.sampled_from(sorted(ON_DATA))), draw(st.sampled_from(sorted(OF_LEVEL)))
    size = st.integers(512 * MIB, 9 * GIB).map(lambda size: {"size": size})
    room = st.one_of(size, shares.map(lambda share: {"size": share}), st.just({"grow": True}))
    mounts = draw(st.lists(st.sampled_from(ON_DATA[name]), min_size=1, unique=True))
    return {
        "name": name,
        "where": {"model": name},
        "level": level,
        "count": draw(st.sampled_from(OF_LEVEL[level])),
        "volumes": [{"mount": mount, **draw(room)} for mount in mounts],
        **draw(optional(leave=SOME)),
    }


@st.composite
def storages(draw: st.DrawFn) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = []
    mounts = (*USUAL, *CLASHING) if draw(ONE_IN_FIVE) else USUAL
    for mount in draw(st.lists(st.sampled_from(mounts), unique=True, max_size=4)):
        kind = draw(st.sampled_from(["size", "share", "grow"]))
        volume: dict[str, Any] = {"mount": mount, **draw(optional(options=options))}
        if kind == "size":
            volume["size"] = draw(st.integers(512 * MIB, 40 * GIB))
        else:
            volume |= (
                {"grow": draw(st.integers(1, 9))} if kind == "grow" else {"size": draw(shares)}
            )
            volume |= draw(optional(min=st.integers(1, 9 * GIB), max=st.integers(9 * GIB, 1 << 44)))
        volume |= draw(optional(filesystem=st.sampled_from(["xfs", "ext4", "btrfs"])))
        volumes.append(volume)
    own: dict[str, Any] = {**OWN, "esp": {"size": "64 MiB"}} if draw(ONE_IN_FIVE) else OWN
    return {
        "preset": draw(st.sampled_from([*BUILT_IN, own, own])),
        "data": draw(st.lists(arrays_of_data(), max_size=2, unique_by=lambda one: one["name"])),
        "volumes": volumes,
        **draw(
            optional(
                leave=shares | SOME,
                swap=shares | SOME,
                zram=shares | SOME,
                filesystem=st.sampled_from(["xfs", "ext4", "btrfs"]),
            )
        ),
    }


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.sampled_from([1, 2, 3]))
    content = {
        **encrypted(),
        "disks": {
            "count": count,
            "erase": draw(st.sampled_from(["any", "any", "any", "refuse-foreign", "owned"])),
            "where": {"rotational": False} if draw(ONE_IN_FIVE) else {"model": "system"},
        },
        "storage": draw(storages()),
    }
    if content["storage"].get("swap") is None and draw(st.booleans()):
        del content["encryption"]
    return Plan.model_validate(content)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_plan_on_any_machine_gives_a_sound_layout_or_problems(data: st.DataObject) -> None:
    plan = data.draw(plans())
    further = [one.name for one in plan.storage.data for _ in range(one.count)]
    machine = data.draw(machines(plan.disks.count, further))
    layout = lay_out(plan, machine)
    if isinstance(layout, list):
        event(f"problem: {layout[0].where}")
        assert layout
        assert all(problem.message and problem.where for problem in layout)
        return
    event(f"a layout over {plan.disks.count}, data {[one.level for one in plan.storage.data]}")
    assert not isinstance(layout, Whole)
    assert len(layout.disks) == plan.disks.count
    partitions_are_sound(layout)
    stack_fits(layout, encrypted=plan.encryption is not None)
    every_wish_is_granted(layout, wish(plan))
    for one, asked in zip(layout.data, plan.storage.data, strict=True):
        data_is_sound(one, asked, encrypted=plan.encryption is not None)
    everything_can_be_written_down(layout)
    assert lay_out(plan, machine) == layout, "the same again, to the last UUID"


def partitions_are_sound(layout: Layout) -> None:
    first = layout.disks[0]
    for laid in layout.disks:
        assert laid.partitions[0].start >= MIB, "the first GPT has room"
        assert laid.partitions[-1].end <= laid.disk.size - MIB, "the backup GPT has room"
        for one, next_one in pairwise(laid.partitions):
            assert one.end <= next_one.start, "no overlap"
        for part, like in zip(laid.partitions, first.partitions, strict=True):
            assert part.start % MIB == 0
            assert part.size % MIB == 0
            assert part.size > 0
            assert (part.start, part.size) == (like.start, like.size), "either leg can stand alone"
        assert laid.partitions[0].size >= smallest_esp(laid.disk)
    identities = [p.partuuid for laid in layout.every_disk for p in laid.partitions]
    identities += [laid.guid for laid in layout.every_disk]
    identities += [array.uuid for array in layout.every_array]
    identities += [luks.uuid for luks in layout.every_luks]
    assert len(set(identities)) == len(identities)
    taken = [laid.disk for laid in layout.every_disk]
    assert not any(same_device(a, b) for a, b in combinations(taken, 2))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.booleans())
def test_any_array_on_any_disks_is_sound_or_a_problem(data: st.DataObject, encrypted: bool) -> None:
    asked = data.draw(arrays_of_data())
    plan = Plan.model_validate({**small(disks={"count": 1}), "storage": {"data": [asked]}})
    wishes = wish(plan)
    found = [data.draw(disks(number)) for number in range(asked["count"])]
    names = Names(plan.id, "CZ1234")
    one = place_data(found, wishes.data[0], "vg0", names, encrypted=encrypted)
    if isinstance(one, list):
        event(f"problem: {one[0].where}")
        assert all(problem.message and problem.where for problem in one)
        return
    event(f"{one.level} over {len(one.disks)}")
    data_is_sound(one, plan.storage.data[0], encrypted=encrypted)


def data_is_sound(one: DataLayout, asked: DataArray, *, encrypted: bool) -> None:
    sizes = set()
    for laid in one.disks:
        (partition,) = laid.partitions
        assert partition.start == MIB
        assert partition.end <= laid.disk.size - MIB, "the backup GPT has room"
        sizes.add(partition.size)
    (size,) = sizes
    assert len(one.disks) == asked.count
    assert (one.array is None) is (asked.level == "single")
    if one.array is not None:
        assert one.array.component < size, "md has room for its own"
        assert one.array.component % MIB == 0, "whole chunks of every member"
        copies = {"raid1": asked.count, "raid10": 2}[asked.level]
        assert one.array.size * copies == one.array.component * asked.count
        size = one.array.size
    assert (one.luks is not None) is encrypted
    assert one.group.size <= size - (16 * MIB if encrypted else 0) - MIB
    assert one.group.free >= 0
    assert {v.filesystem.mount for v in one.group.volumes} == {v.mount for v in asked.volumes}
    assert all(v.size > 0 and v.size % EXTENT == 0 for v in one.group.volumes)


def stack_fits(layout: Layout, *, encrypted: bool) -> None:
    room = layout.disks[0].partitions[-1].size
    assert bool(layout.arrays) is (len(layout.disks) > 1)
    for array, part in zip(layout.arrays, layout.disks[0].partitions[1:], strict=False):
        assert 0 < array.size < part.size
        assert len(array.members) == len(layout.disks)
        room = array.size
    assert (layout.luks is not None) is encrypted
    if encrypted:
        room -= 16 * MIB
    assert layout.group.size <= room - MIB, "LVM's own metadata has room"
    assert layout.group.free >= 0
    assert all(v.size > 0 and v.size % EXTENT == 0 for v in layout.group.volumes)


def every_wish_is_granted(layout: Layout, wished: StorageWish) -> None:
    mounted = {v.filesystem.mount: v for v in layout.group.volumes if v.filesystem.mount != "none"}
    assert set(mounted) == {volume.mount for volume in wished.volumes}
    total = layout.group.size
    for volume in wished.volumes:
        made = mounted[volume.mount]
        assert made.filesystem.options == volume.options
        assert made.filesystem.kind == volume.filesystem
        assert made.size >= max(volume.minimum, SMALLEST[volume.filesystem])
        if volume.maximum is not None:
            assert made.size <= max(in_bytes(volume.maximum, total), volume.minimum) + EXTENT
    assert layout.group.free >= in_bytes(wished.leave, total)
    assert bool(layout.swaps) is (wished.swap is not None)
    if isinstance(wished.swap, int):
        (swap,) = (v for v in layout.group.volumes if v.filesystem.kind == "swap")
        assert wished.swap <= swap.size < wished.swap + EXTENT
    assert [memory.mount for memory in layout.memory] == [t.mount for t in wished.tmpfs]
    assert layout.boot.options == wished.boot.options
    assert layout.deviations == wished.deviations


def in_bytes(size: int | Percent, total: int) -> int:
    return size.of(total) if isinstance(size, Percent) else size


def everything_can_be_written_down(layout: Layout) -> None:
    for laid in layout.every_disk:
        assert script(laid).count("uuid=") == len(laid.partitions), "no sector is split"
        assert len(list(losses(laid.disk))) == len(laid.disk.content)
    assert all(line.isprintable() for line in tree(layout))
    json.dumps(plain(layout))
    mounts = [line.split()[1] for line in fstab(layout).splitlines() if not line.startswith("#")]
    assert len(mounts) == len(layout.formatted) + len(layout.memory)
    assert len(set(mounts)) == len(mounts)
    assert mdadm_conf(layout).count("ARRAY") == len(layout.every_array)
    assert len(crypttab(layout).splitlines()) == len(layout.every_luks)
    ElementTree.fromstring(drawing(layout, "any"))
    uuids = [filesystem.uuid for filesystem in layout.formatted]
    assert len(set(uuids)) == len(uuids)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("size", [32 * 10**9, 480 * 10**9, LARGEST], ids=["32GB", "480GB", "32TB"])
@pytest.mark.parametrize("sectors", [(512, 512), (4096, 4096), (512, 4096)])
def test_every_preset_fits_an_encrypted_mirror_from_32_gb_to_32_tb(
    name: str, size: int, sectors: tuple[int, int]
) -> None:
    layout = on_two_disks(name, size, sectors)
    assert isinstance(layout, Layout), layout
    partitions_are_sound(layout)
    stack_fits(layout, encrypted=True)
    assert layout.group.free < EXTENT, "what grows took the rest"
    assert layout.deviations == ()


@pytest.mark.parametrize("name", ["plain", "cis-l1-server"])
def test_small_presets_fit_disks_of_16_gb(name: str) -> None:
    assert isinstance(on_two_disks(name, 16 * 10**9, (512, 512)), Layout)


@pytest.mark.parametrize("name", ["stig-rhel9", "cis-l2+stig-rhel9"])
def test_a_preset_that_does_not_fit_says_so_with_both_sizes(name: str) -> None:
    (problem,) = cast("list[Problem]", on_two_disks(name, 16 * 10**9, (512, 512)))
    assert problem.message.startswith("need 27.0 GiB together, the volume group has 12.9 GiB")


def on_two_disks(name: str, size: int, sectors: tuple[int, int]) -> object:
    pair = tuple(
        Disk(path=f"/dev/sd{n}", serial=f"S{n}", size=size // 4096 * 4096, sector_size=sector)
        for n, sector in enumerate(sectors)
    )
    content = {**encrypted(), "disks": {"count": 2}, "storage": {"preset": name}}
    machine = Inventory(firmware=Firmware(uefi=True), memory=4 * GIB, disks=pair)
    return lay_out(Plan.model_validate(content), machine)
