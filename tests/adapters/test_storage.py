"""Erasing and partitioning on sparse files with the real util-linux; no root, no loop devices."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from agent.adapters import command
from agent.adapters.disks import identity
from agent.adapters.storage import plain
from agent.adapters.storage.erase import (
    CANARIES,
    MIB,
    blank_ends,
    distinct,
    empty,
    reads_zeros,
    signatures,
)
from agent.adapters.storage.hold import held
from agent.adapters.storage.stack import Kernel
from agent.adapters.storage.table import script
from agent.errors import StepError
from agent.inventory.model import Disk
from agent.layout.extents import GIB
from agent.layout.model import DiskLayout, FileSystem, Layout
from agent.layout.place import Names, place
from agent.plan.filesystem import SMALLEST
from agent.plan.wish import Grow, PartitionWish, StorageWish, VolumeWish
from agent.secret import Secret
from tests.adapters.disks import loop

SIZE = 64 * MIB


def sparse(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


def kinds(path: Path) -> set[str]:
    return {signature.kind for signature in signatures(command.run, path)}


def layout(disk: Path, size: int) -> DiskLayout:
    wish = StorageWish(
        preset="plain",
        volume_group="vg0",
        volumes=(VolumeWish("/", Grow(), GIB, "xfs"),),
        tmpfs=(),
        boot=PartitionWish("/boot", GIB, "ext4"),
        esp=PartitionWish("/boot/efi", GIB, "vfat"),
        deviations=(),
    )
    found = place(
        [Disk(path=str(disk), size=size, serial="S")], wish, Names(UUID(int=7), "m"), encrypted=True
    )
    assert isinstance(found, Layout)
    return found.disks[0]


def test_sfdisk_writes_exactly_the_extents_types_names_and_uuids_of_the_layout(
    tmp_path: Path,
) -> None:
    disk = sparse(tmp_path / "disk", 16 * GIB)
    wanted = layout(disk, 16 * GIB)
    with command.feeding("sfdisk", "--wipe", "always", disk) as stdin:
        stdin.write(script(wanted).encode())
    table = json.loads(command.run("sfdisk", "--json", disk))["partitiontable"]
    assert UUID(table["id"]) == wanted.guid
    for part, entry in zip(wanted.partitions, table["partitions"], strict=True):
        assert entry["start"] * 512 == part.start
        assert entry["size"] * 512 == part.size
        assert UUID(entry["uuid"]) == part.partuuid
        assert UUID(entry["type"]) == part.type_guid
        assert entry["name"] == part.name
    assert kinds(disk) == {"gpt", "PMBR"}
    assert {s.kind for s in distinct(signatures(command.run, disk))} == {"gpt"}


def test_the_table_of_a_disk_with_4_kib_sectors_counts_those() -> None:
    whole = layout(Path("/dev/x"), 16 * GIB)
    big = DiskLayout(
        whole.disk.model_copy(update={"sector_size": 4096}), whole.guid, whole.partitions
    )
    assert "1 : start=256, size=262144," in script(big)
    assert "1 : start=2048, size=2097152," in script(whole)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Disk]:
    """Return a block device of our own; nothing is written to it."""
    with loop(tmp_path / "backing", SIZE) as path:
        serial, wwn, size = identity(path.name, Kernel())
        yield Disk(path=str(path), serial=serial, wwn=wwn, size=size)


def test_the_chosen_device_is_held_open_and_any_other_is_refused(device: Disk) -> None:
    with held([device, device], Kernel()):
        pass
    other = device.model_copy(update={"serial": "OTHER", "size": device.size + 512})
    with (
        pytest.raises(StepError, match="is not the disk that was chosen: serial was OTHER"),
        held([device, other], Kernel()),
    ):
        pytest.fail("held")


@pytest.mark.parametrize("kind", ["btrfs", "swap"])
def test_what_blivet_does_not_make_has_the_chosen_uuid_and_label(tmp_path: Path, kind: str) -> None:
    device = sparse(tmp_path / "volume", SMALLEST[kind])
    uuid = "0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11"
    wanted = FileSystem(device, "x", "none", kind, uuid, "var_log", ())
    assert plain.makes(wanted)
    device.write_bytes(b"\xa5" * 65536 + bytes(SMALLEST[kind] - 65536))
    plain.make(command.run, wanted)
    found = signatures(command.run, device)
    assert [(s.kind, s.uuid, s.label) for s in found] == [(kind, uuid, "var_log")]


def write_gpt(disk: Path) -> None:
    with command.feeding("sfdisk", disk) as stdin:
        stdin.write(b"label: gpt\nstart=2048, size=4096\n")


def write_md_at_both_ends(disk: Path) -> None:
    """Superblocks of metadata 1.2 (4 KiB in) and 1.0 (at the end), as Linux's md_p.h has them."""
    for offset in (4096, SIZE - 16 * 512):
        block = bytearray(256)
        block[0:8] = (0xA92B4EFC).to_bytes(4, "little") + (1).to_bytes(4, "little")
        block[16:32] = bytes(range(16))
        block[144:152] = (offset // 512).to_bytes(8, "little")
        total = sum(int.from_bytes(block[i : i + 4], "little") for i in range(0, 256, 4))
        folded = (total & 0xFFFFFFFF) + (total >> 32)
        block[216:220] = folded.to_bytes(4, "little")
        with disk.open("r+b") as stream:
            stream.seek(offset)
            stream.write(block)


def write_zfs_labels(disk: Path) -> None:
    """Uberblock magic in all four labels, two in front and two at the end (ZFS on-disk format)."""
    magic = (0x00BAB10C).to_bytes(8, "little")
    with disk.open("r+b") as stream:
        for label in (0, 256 * 1024, SIZE - 512 * 1024, SIZE - 256 * 1024):
            for number in range(128):
                stream.seek(label + 128 * 1024 + number * 1024)
                stream.write(magic)


def format_luks(disk: Path) -> None:
    command.run(
        "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2",
        "--pbkdf-force-iterations", "1000", "--key-file", "-", disk,
        secret=Secret("k"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (write_gpt, "gpt"),
        (write_md_at_both_ends, "linux_raid_member"),
        (write_zfs_labels, "zfs_member"),
        (format_luks, "crypto_LUKS"),
        (lambda disk: command.run("mkfs.ext4", "-q", "-F", disk), "ext4"),
        (lambda disk: command.run("mkfs.vfat", "-F", "32", disk), "vfat"),
        (lambda disk: command.run("mkswap", disk), "swap"),
    ],
    ids=["gpt", "md", "zfs", "luks", "ext4", "vfat", "swap"],
)
def test_nothing_is_found_on_what_was_erased(tmp_path: Path, make, kind: str) -> None:  # type: ignore[no-untyped-def]
    disk = sparse(tmp_path / "disk")
    make(disk)
    assert kind in kinds(disk)
    assert not empty(disk)
    blank_ends(command.run, disk)
    assert kinds(disk) == set()
    assert command.attempt("blkid", "-p", disk).status == 2  # nothing found (blkid(8))
    with disk.open("rb") as stream:
        assert not any(stream.read(MIB))
        stream.seek(-MIB, os.SEEK_END)
        assert not any(stream.read(MIB))


def test_a_signature_that_comes_back_is_an_error(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "disk")
    found = json.dumps(
        {"signatures": [{"offset": "0x3", "type": "xfs", "label": None, "uuid": None}]}
    )

    def stubborn(*argv: command.Argument, **rest: object) -> str:
        return found if "--json" in argv else ""

    with pytest.raises(StepError, match="still carries xfs"):
        blank_ends(stubborn, disk)


def test_looking_at_a_disk_does_not_change_it(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "disk")
    write_gpt(disk)
    before, stamp = disk.read_bytes(), disk.stat().st_mtime_ns
    disk.chmod(0o444)
    signatures(command.run, disk)
    empty(disk)
    assert (disk.read_bytes(), disk.stat().st_mtime_ns) == (before, stamp)


@pytest.mark.parametrize("offset", [0, MIB - 1, SIZE - MIB, SIZE - 1])
def test_one_byte_at_either_end_makes_a_disk_not_empty(tmp_path: Path, offset: int) -> None:
    disk = sparse(tmp_path / "disk")
    assert empty(disk)
    with disk.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\1")
    assert not empty(disk)


def discard(*, obey: bool):  # type: ignore[no-untyped-def]
    """Return an `attempt` whose blkdiscard, on a file, discards or says so; it cannot zero."""

    def attempt(*argv: command.Argument, **rest: object) -> command.Finished:
        if argv[0] == "blkdiscard":
            if obey:
                size = Path(argv[-1]).stat().st_size
                os.truncate(argv[-1], 0)
                os.truncate(argv[-1], size)
            return command.Finished((), 0, "", "")
        return command.Finished((), 1, "", "operation not supported")

    return attempt


def test_a_discard_that_zeroes_is_proof(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "disk")
    assert reads_zeros(command.run, discard(obey=True), disk)
    assert not any(disk.read_bytes())


def test_a_discard_that_is_only_a_promise_is_no_proof(tmp_path: Path) -> None:
    """Even on a disk that was blank before: the marks written first are still there."""
    disk = sparse(tmp_path / "disk")
    assert not reads_zeros(command.run, discard(obey=False), disk)
    assert disk.read_bytes().count(b"\xa5" * 4096) >= CANARIES


def test_zeroing_by_hole_punching_is_proof_where_discard_is_refused(tmp_path: Path) -> None:
    """A file refuses blkdiscard and takes holes, like a disk with WRITE ZEROES only."""
    disk = sparse(tmp_path / "disk", 200 * MIB)
    with disk.open("r+b") as stream:
        stream.seek(100 * MIB)
        stream.write(b"old data")
    assert reads_zeros(command.run, command.attempt, disk)
    assert not any(disk.read_bytes())
