"""When a file system was last used, on file systems that real programs made."""

from __future__ import annotations

import os
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.adapters import command
from agent.adapters.age import last_used
from agent.adapters.storage.erase import signatures

SIZE = 400 << 20
THEN = 1_600_000_000


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
    return path


def found(device: Path) -> tuple[str, datetime | None]:
    (signature,) = signatures(command.run, device)
    return signature.kind, last_used(device, signature.kind, signature.offset)


@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_ext_says_when_it_was_last_mounted_or_written(device: Path, kind: str) -> None:
    subprocess.run([f"mkfs.{kind}", "-q", device], check=True)
    for field, seconds in (("mkfs_time", 1), ("wtime", THEN - 9), ("mtime", THEN)):
        command.run("debugfs", "-w", "-R", f"set_super_value {field} {seconds}", device)
    with device.open("r+b") as stream:  # debugfs notes that it wrote
        stream.seek(1024 + 0x30)
        stream.write(struct.pack("<I", THEN - 9))
    assert found(device) == (kind, datetime.fromtimestamp(THEN, UTC))


def xfs_times(device: Path, *writes: str) -> set[datetime]:
    """Return the root directory's times as xfs_db shows them, after it wrote what is asked for."""
    commands = ("sb 0", "addr rootino", *writes, *(f"print core.{f}.sec" for f in XFS_TIMES))
    argv = ["xfs_db", "-x", *(word for each in commands for word in ("-c", each)), str(device)]
    done = subprocess.run(
        argv, check=True, capture_output=True, text=True, env={**os.environ, "TZ": "UTC"}
    )
    shown = [line.partition(" = ")[2] for line in done.stdout.splitlines()[-len(XFS_TIMES) :]]
    return {datetime.strptime(text, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC) for text in shown}


XFS_TIMES = ("atime", "mtime", "ctime")


@pytest.mark.parametrize("feature", ["bigtime=1", "bigtime=0"])
def test_xfs_says_when_its_root_directory_was_last_used(device: Path, feature: str) -> None:
    subprocess.run(["mkfs.xfs", "-q", "-m", feature, device], check=True)
    times = xfs_times(device)
    assert found(device) == ("xfs", max(times))
    assert datetime.now(UTC) - max(times) < timedelta(minutes=5)
    if feature == "bigtime=1":
        old = xfs_times(device, *(f'write core.{f} "2020-09-13 12:26:40"' for f in XFS_TIMES))
        assert max(old).year == 2016  # what xfs_db makes of it, and it reads it back so
        assert found(device) == ("xfs", max(old))


def test_md_says_when_it_was_last_updated(device: Path) -> None:
    block = bytearray(256)
    struct.pack_into("<II", block, 0, 0xA92B4EFC, 1)
    struct.pack_into("<Q", block, 144, 8)
    struct.pack_into("<Q", block, 192, THEN | 999 << 40)
    with device.open("r+b") as stream:
        stream.seek(4096)
        stream.write(block)
    time = last_used(device, "linux_raid_member", 4096)
    assert time == datetime.fromtimestamp(THEN, UTC)


def test_lvm_says_when_the_group_was_last_changed(device: Path) -> None:
    text = f'vg0 {{\nid = 1\n}}\ncreation_host = "h"\ncreation_time = {THEN}\t# Sun\n'
    with device.open("r+b") as stream:
        stream.seek(4608)
        stream.write(text.replace(str(THEN), str(THEN - 99)).encode() + bytes(512) + text.encode())
    assert last_used(device, "LVM2_member", 0x218) == datetime.fromtimestamp(THEN, UTC)


@pytest.mark.parametrize("seconds", [0, 1, 1 << 31, (1 << 32) - 1])
def test_a_time_that_cannot_be_says_nothing(device: Path, seconds: int) -> None:
    block = struct.pack("<I", seconds)
    with device.open("r+b") as stream:
        for place in (0x2C, 0x30, 0x108):
            stream.seek(1024 + place)
            stream.write(block)
    time = last_used(device, "ext4", 0x438)
    assert time is None


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "linux_raid_member", "LVM2_member", "crypto_LUKS", "vfat"]
)
def test_rubbish_says_nothing_and_is_no_error(tmp_path: Path, kind: str) -> None:
    for size in (0, 100, 3000, 70_000):
        device = tmp_path / f"rubbish{size}"
        device.write_bytes(b"\xff" * size)
        assert last_used(device, kind, 0x438 if kind == "ext4" else 0) is None
    assert last_used(tmp_path / "nothing", kind, 0) is None
