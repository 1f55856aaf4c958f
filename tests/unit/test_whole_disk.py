"""An image of a whole disk: its plan, its checks, its steps, and how it is known again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.adapters.disks import is_under_way, stamped
from agent.errors import MachineError, StepError
from agent.inventory.model import Content, Inventory, Marker
from agent.layout.extents import GIB, MIB
from agent.layout.picture import plain, tree
from agent.layout.whole import Whole
from agent.payload import gpt
from agent.payload.manifest import Chunk, Manifest, Payload
from agent.payload.stamp import NAME, TYPE, UNDER_WAY, Stamp, place
from agent.resolve import Order, lay_out, resolve
from agent.resolve import esps as esps_of
from agent.session import Outcome, run
from agent.steps.enter_image import EnterImage
from agent.target import marker
from tests.unit.fakes import DISKS, SERVER, FakeHost, order
from tests.unit.fakes import plan as tree_plan
from tests.unit.payload.test_gpt import ESP, ROOT, head
from tests.unit.plan.plans import problems_of, small, text_of

NOW = datetime(2026, 11, 22, tzinfo=UTC)
WHOLE: dict[str, Any] = {"storage": {"preset": "whole-disk"}, "report": []}
ONE = {"count": 1, "where": {"serial": ["SN1"]}}
SIZE = 8 * GIB
BRINGS = "a whole-disk image has file systems of its own"


def disk_manifest(size: int = SIZE, **changes: Any) -> Manifest:
    lengths = [4 * MIB] * (size // (4 * MIB)) + ([size % (4 * MIB)] if size % (4 * MIB) else [])
    chunks = tuple(
        Chunk(4 * MIB * n, length, 100 * n, 100, "0" * 64) for n, length in enumerate(lengths)
    )
    content: dict[str, Any] = {
        "version": 1,
        "name": "appliance",
        "created": NOW,
        "kind": "disk",
        "size": size,
        "sha256": sha256(b"").hexdigest(),
        "chunk_size": 4 * MIB,
        "digest": "sha256",
        "payload": Payload(urls=("appliance.zst",), size=100 * len(chunks)),
        "chunks": chunks,
    }
    return Manifest.model_validate(content | changes)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path)
    found.images.manifest = disk_manifest()
    found.images.first = head(ESP, ROOT, size=SIZE)
    return found


def decide(host: FakeHost, inventory: Inventory = SERVER, **changes: Any) -> Order:
    wanted = tree_plan(None, **(WHOLE | {"disks": ONE} | changes))
    return resolve(wanted, inventory, host.machine(), NOW, lambda done, total: None)


def problems(host: FakeHost, inventory: Inventory = SERVER, **changes: Any) -> Sequence[str]:
    with pytest.raises(MachineError) as caught:
        decide(host, inventory, **changes)
    assert host.untouched
    return [str(problem) for problem in caught.value.problems]


def carry_out(order: Order, host: FakeHost) -> dict[str, Any]:
    machine = host.machine()
    return {step.name: dict(step.apply(machine, lambda done, total: None)) for step in order.steps}


# --- the plan ---


@pytest.mark.parametrize(
    ("changes", "where", "reason"),
    [
        ({"storage": {"preset": "whole-disk", "filesystem": "ext4"}}, "storage.filesystem", BRINGS),
        (
            {"storage": {"preset": "whole-disk", "volumes": [{"mount": "/srv", "size": "5 GiB"}]}},
            "storage.volumes",
            BRINGS,
        ),
        (
            {"storage": {"preset": "whole-disk", "volume_group": "x"}},
            "storage.volume_group",
            BRINGS,
        ),
        (
            {"configure": {"kernel_options": ["quiet"]}},
            "configure.kernel_options",
            f"{BRINGS}, which are not opened",
        ),
        (
            {
                "storage": {"preset": "plain"},
                "image": {"manifest": "https://x/i", "verify": "full"},
            },
            "image.verify",
            "is for whole-disk images",
        ),
        (
            {"image": {"oci": f"registry.example.com/system@sha256:{'0' * 64}"}},
            "image.oci",
            "a container has no disk in it",
        ),
    ],
)
def test_what_cannot_stand_beside_a_whole_disk_is_refused_by_name(
    changes: dict[str, Any], where: str, reason: str
) -> None:
    found = problems_of(text_of(small(storage={"preset": "whole-disk"}) | changes))
    assert any(line.startswith(f"{where}: {reason}") for line in found), found


def test_encryption_of_a_whole_disk_is_refused() -> None:
    found = problems_of(order("tpm2", storage={"preset": "whole-disk"}))
    assert any(line.startswith(f"encryption: {BRINGS}, encrypted or not") for line in found), found


# --- the layout ---


def test_a_single_disk_is_written_itself(host: FakeHost) -> None:
    layout = decide(host).layout
    assert isinstance(layout, Whole)
    assert (layout.device, layout.size) == (Path("/dev/vda"), DISKS[0].size)
    assert list(tree(layout))[-1] == "whole-disk image on /dev/vda  64.0 GiB, as it is"
    assert json.loads(json.dumps(plain(layout)))["image"]["device"] == "/dev/vda"


def test_two_disks_become_a_mirror_whose_metadata_firmware_does_not_see(host: FakeHost) -> None:
    layout = decide(host, disks={"count": 2}).layout
    assert isinstance(layout, Whole)
    (array,) = layout.arrays
    assert (array.metadata, array.path) == ("1.0", Path("/dev/md/bedplate-image"))
    assert array.members == (Path("/dev/vda"), Path("/dev/nvme0n1"))
    assert layout.device == array.path
    assert DISKS[0].size - 140 * MIB < layout.size < DISKS[0].size
    assert layout.size % MIB == 0
    (line,) = (line for line in tree(layout) if line.startswith("mirror "))
    assert "RAID1 of 2, metadata 1.0; the image itself must assemble it" in line


def test_a_mirror_of_disks_with_other_sectors_is_refused(host: FakeHost) -> None:
    disks = (DISKS[0], DISKS[1].model_copy(update={"sector_size": 4096}))
    found = problems(host, SERVER.model_copy(update={"disks": disks}), disks={"count": 2})
    assert any("have sectors of different sizes" in line for line in found)


def test_the_same_plan_on_the_same_machine_is_the_same_to_the_last_uuid(host: FakeHost) -> None:
    assert decide(host).layout == decide(host).layout == lay_out(decide(host).plan, SERVER)


# --- the checks ---


def test_an_image_of_the_other_kind_is_refused_either_way(host: FakeHost, tmp_path: Path) -> None:
    trees = FakeHost(tmp_path / "trees")
    (line,) = problems(trees)
    assert "is a tree of files; storage.preset whole-disk needs an image of a whole disk" in line
    (line,) = problems(host, storage={"preset": "plain"})
    assert "storage: {preset: whole-disk}" in line


def test_an_image_larger_than_the_disk_is_refused_with_both_sizes(host: FakeHost) -> None:
    room = place(DISKS[0].size)
    host.images.manifest = disk_manifest(room + 4096)
    (line,) = problems(host)
    assert f"room for {room} bytes" in line
    assert f"has {room + 4096}" in line
    host.images.manifest = disk_manifest(room)
    decide(host)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (bytes(MIB), "appliance: has no GUID partition table"),
        (head(ESP, sector=4096), "counts sectors of 4096 bytes, those of /dev/vda have 512"),
        (
            head(gpt.Partition(1, ESP.type, ESP.partuuid, MIB, 64 * GIB, "")),
            "the last partition of appliance ends at byte",
        ),
        (
            head(*(gpt.Partition(n, TYPE, UUID(int=n), MIB, MIB, "") for n in (1, 2)), count=2),
            "no free entry for the marker, all 2 are taken",
        ),
    ],
)
def test_a_table_that_would_not_work_is_refused(host: FakeHost, first: bytes, reason: str) -> None:
    host.images.first = first
    assert any(reason in line for line in problems(host))


def test_a_payload_that_is_not_there_is_said_once_more_for_its_table(host: FakeHost) -> None:
    host.images.away = "404"
    assert all("404" in line for line in problems(host))


def test_foreign_data_is_refused_as_for_any_installation(host: FakeHost) -> None:
    foreign = Content(device="/dev/vda1", kind="xfs", label="precious", size=GIB)
    disks = (DISKS[0].model_copy(update={"content": (foreign,)}), DISKS[1])
    (line,) = problems(host, SERVER.model_copy(update={"disks": disks}))
    assert "holds foreign data" in line


# --- the steps ---


def test_the_steps_of_a_disk_and_of_a_mirror(host: FakeHost) -> None:
    names = ["clear-disks", "flash-image", "enter-image", "close-target"]
    assert [step.name for step in decide(host).steps] == names
    two = decide(host, disks={"count": 2})
    assert [step.name for step in two.steps] == [names[0], "mirror-disks", *names[1:]]
    for step in two.steps:
        assert step.describe().isprintable()


@pytest.mark.parametrize("count", [1, 2])
def test_the_image_is_written_and_entered(host: FakeHost, count: int) -> None:
    decided = decide(host, disks=ONE if count == 1 else {"count": 2})
    shown = carry_out(decided, host)
    assert isinstance(decided.layout, Whole)
    assert host.images.laid == [decided.layout.device]
    assert host.images.legs == (decided.layout.arrays[0].members if count == 2 else ())
    assert shown["flash-image"]["device"] == str(decided.layout.device)
    assert shown["flash-image"]["read_back"]["how"] == "sample"
    (entry,) = host.firmware.created
    label, disk, partition, loader = entry
    assert label == "appliance (disk 1, SN1)"
    assert loader in ("\\EFI\\BOOT\\BOOTX64.EFI", "\\EFI\\BOOT\\BOOTAA64.EFI")
    assert (disk, partition) == (Path("/dev/vda"), ESP.number)
    assert decided.esps == (ESP.partuuid,)


def test_what_is_waited_for_are_links_that_udev_makes(host: FakeHost) -> None:
    """Of an array's partitions those without a file system have no link by their PARTUUID."""

    def awaited(order: Order) -> list[str]:
        carry_out(order, host)
        return [str(link) for link in host.storage.awaited]

    one = decide(host)
    assert isinstance(one.layout, Whole)
    by = "/dev/disk/by-partuuid"
    assert awaited(one) == [f"{by}/{one.layout.stamp}", f"{by}/{ESP.partuuid}"]
    image = "/dev/md/bedplate-image"
    assert awaited(decide(host, disks={"count": 2})) == [image, f"{image}{ESP.number}"]
    host.images.first = head(ROOT, size=SIZE)
    assert awaited(decide(host, disks={"count": 2})) == [image]


def test_the_resync_is_held_while_the_image_is_written(host: FakeHost) -> None:
    carry_out(decide(host, disks={"count": 2}), host)
    assert host.storage.synced == ["idle"], "let go of before the array is stopped"
    host.images.cut = "the mirror burned down"
    decided = decide(host, disks={"count": 2})
    machine = host.machine()
    for step in decided.steps[:2]:
        step.apply(machine, lambda done, total: None)
    assert {state.sync for state in host.kernel.mirrors()} == {"frozen"}


def test_verify_full_is_passed_on(host: FakeHost) -> None:
    image = {"manifest": "https://images.example.com/a.json", "verify": "full"}
    shown = carry_out(decide(host, image=image), host)
    assert shown["flash-image"]["read_back"]["how"] == "full"


def test_an_image_without_esp_is_legal_and_said(host: FakeHost) -> None:
    host.images.first = head(ROOT, size=SIZE)
    decided = decide(host)
    shown = carry_out(decided, host)
    assert host.firmware.created == []
    assert (shown["enter-image"]["boot_entry"], shown["enter-image"]["esp"]) == (None, None)
    assert "no EFI system partition" in decided.steps[2].describe()
    assert decided.esps == ()


def test_an_entry_that_cannot_be_made_leaves_erased_disks(host: FakeHost) -> None:
    decided = decide(host)
    assert isinstance(decided.layout, Whole)
    step = EnterImage(decided.layout, "appliance", ESP, architecture="pdp11")
    with pytest.raises(StepError, match="pdp11: has no name for a loader"):
        step.apply(host.machine(), lambda done, total: None)
    assert host.storage.calls[-2:] == ["release", "clear"]


# --- known again ---


def test_the_marker_says_which_plan_and_which_esp(host: FakeHost) -> None:
    decided = decide(host)
    carry_out(decided, host)
    found = marker.parse(host.images.stamped.rstrip(b"\0"))
    assert found is not None
    assert (found.plan, found.machine, found.esp) == (decided.plan.id, "CZ1234", ESP.partuuid)
    assert datetime.fromisoformat(found.finished).tzinfo is not None
    disks = (DISKS[0].model_copy(update={"marker": found}), DISKS[1])
    assert SERVER.model_copy(update={"disks": disks}).installed_by(decided.plan.id) == found
    assert esps_of(decided.plan, SERVER, found) == (ESP.partuuid,)
    old = found.model_copy(update={"esp": None})
    assert esps_of(decided.plan, SERVER, old) == ()


def test_the_same_plan_booted_again_does_nothing_and_boots_the_images_esp(host: FakeHost) -> None:
    content = order(None, **(WHOLE | {"disks": ONE}))
    done = Marker(
        plan=decide(host).plan.id, hostname="h", machine="CZ1234", finished="x", esp=ESP.partuuid
    )
    disks = (DISKS[0].model_copy(update={"marker": done}), DISKS[1])
    host.found = SERVER.model_copy(update={"disks": disks})
    from agent.find import Found

    ended = run(lambda _: Found("here", content), host, host.reporter, lambda _: None)
    assert (ended.outcome, list(ended.esps)) == (Outcome.ALREADY, [ESP.partuuid])
    assert host.untouched


def content(kind: str, **changes: Any) -> Content:
    return Content(device="/dev/vda1", kind=kind, size=GIB, **changes)


@pytest.mark.parametrize(
    ("found", "ours"),
    [
        ((content("gpt"), content("vfat", partition_name="esp"),
          content("data", partition_name=NAME)), True),
        ((content("bedplate-image"),), True),
        ((content("linux_raid_member", label=f"any:{NAME}"),), True),
        ((content("linux_raid_member", label="any:root"),), False),
        ((content("gpt"), content("vfat", partition_name="esp")), False),
        ((content("data"),), False),
    ],
)  # fmt: skip
def test_a_disk_with_an_image_of_ours_may_be_installed_again(
    found: tuple[Content, ...], ours: bool
) -> None:
    assert DISKS[0].model_copy(update={"content": found}).ours is ours


def stamped_disk(path: Path, note: bytes, size: int = 32 * MIB) -> Path:
    stamp = Stamp(UUID(int=4), lambda: note)
    moved = gpt.parse(head(ESP, ROOT)).moved(size, stamp.entry(size))
    with path.open("wb") as file:
        file.write(moved.head)
        file.seek(place(size))
        file.write(stamp.page())
        file.seek(moved.backup_at)
        file.write(moved.backup)
    return path


def test_the_marker_is_read_from_the_disk_itself(tmp_path: Path) -> None:
    disk = stamped_disk(tmp_path / "disk", b'{"plan": "x"}')
    assert stamped(disk) == '{"plan": "x"}'
    assert not is_under_way(disk, 32 * MIB)
    plain_disk = tmp_path / "other"
    plain_disk.write_bytes(head(ESP))
    assert stamped(plain_disk) is None
    assert stamped(tmp_path / "gone") is None


def test_a_disk_that_was_left_half_written_is_known(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.seek(place(16 * MIB + 512))
        file.write(UNDER_WAY)
        file.truncate(16 * MIB + 512)
    assert is_under_way(disk, 16 * MIB + 512)
    assert not is_under_way(disk, 15 * MIB)
    assert not is_under_way(tmp_path / "gone", 16 * MIB)


def test_the_marker_of_a_tree_has_no_esp() -> None:
    found = Marker(plan=UUID(int=1), hostname="h", machine="m", finished="x")
    assert marker.parse(marker.render(found)) == found
    assert replace(Stamp(UUID(int=1), bytes), partuuid=UUID(int=2)).page() == bytes(MIB)
