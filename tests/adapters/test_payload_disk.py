"""Disk images on loop devices that were full of something else (root).

The right bytes on the device, or a named failure and a device that nothing starts from.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.errors import ImageError, StepError
from agent.payload import gpt
from agent.payload.direct import Device, Target, opened, pages
from agent.payload.disk import Flashed, FlashOptions, flash
from agent.payload.manifest import Chunk
from agent.payload.options import FetchOptions
from agent.payload.stamp import NAME, UNDER_WAY, Stamp, place
from agent.payload.zero import HOW, Zeroes
from tests.adapters.crooked import Crooked, Flip, IgnoreRange, Status, always, first
from tests.adapters.disks import (
    MIB,
    PAYLOAD,
    DiskImage,
    content,
    disk_image,
    local,
    loop,
    raw_disk,
    source,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices are for root")

QUICK = FetchOptions(
    connections=3, connect=1.0, stall=0.3, request=1.0, patience=2.0, warn=lambda message: None
)
DEVICE = 40 * MIB
FULL = FlashOptions(QUICK, verify="full")
SAMPLE = FlashOptions(QUICK)
MARKER = b'{"plan": "this one"}'
STAMP = Stamp(UUID("bbbbbbbb-0000-4000-8000-000000000001"), lambda: MARKER)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> DiskImage:
    return disk_image(raw_disk(tmp_path_factory.mktemp("disk")))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A disk that is not blank: what was there must not shine through."""
    with loop(tmp_path / "disk", DEVICE, fill=0xFF) as found:
        yield found


def written(image: DiskImage, device: Path, options: FlashOptions = SAMPLE) -> Flashed:
    with Crooked(image.files) as server:
        return flash(image.manifest, source(server), Target(device), options)


def partitions(head: bytes) -> list[gpt.Partition]:
    return [p for p in gpt.parse(head).partitions if p.name != NAME]


def check_table(device: Path) -> str:
    done = subprocess.run(["sgdisk", "--verify", device], capture_output=True, text=True)
    assert "No problems found" in done.stdout, done.stdout
    return done.stdout


def unbootable(device: Path) -> bool:
    """Both ends zero: no table, in front or behind."""
    found = content(device)
    return not any(found[:MIB]) and not any(found[-MIB:])


# --- what lies on the device ---


@pytest.mark.parametrize("verify", ["sample", "full"])
def test_the_device_has_every_byte_of_the_image(
    image: DiskImage, device: Path, verify: str
) -> None:
    done = written(image, device, SAMPLE if verify == "sample" else FULL)
    found = content(device)
    inside = slice(MIB, len(image.raw) - MIB)
    assert found[inside] == image.raw[inside]
    assert found[:446] == image.raw[:446]
    assert partitions(found[:MIB]) == partitions(image.raw[:MIB])
    assert gpt.parse(found[:MIB]).guid == gpt.parse(image.raw[:MIB]).guid
    assert (done.verified, done.direct) == (verify, True)
    middle = len(image.raw) - 2 * MIB
    assert done.read_back == middle if verify == "full" else 0 < done.read_back < middle


def test_zero_stretches_are_zero_though_the_disk_was_not(image: DiskImage, device: Path) -> None:
    done = written(image, device)
    zeros = sum(chunk.length for chunk in image.manifest.chunks if chunk.zero)
    assert done.zeroed == zeros > 0
    assert done.written == len(image.raw) - 2 * MIB - zeros


def test_what_lies_behind_the_image_is_left_alone_but_the_old_backup_table_goes(
    image: DiskImage, device: Path
) -> None:
    written(image, device)
    found = content(device)
    assert set(found[len(image.raw) : -MIB]) == {0xFF}
    backup = gpt.parse(image.raw[:MIB]).entry_count * 128 + 512
    assert not any(found[-MIB:-backup])


def test_the_backup_table_moves_to_the_end_and_no_partitioner_complains(
    image: DiskImage, device: Path
) -> None:
    done = written(image, device)
    check_table(device)
    dump = subprocess.run(["sfdisk", "--verify", device], capture_output=True, text=True)
    assert dump.stdout.startswith(f"{device}:\nNo errors detected."), dump.stdout
    assert dump.stderr == ""
    found = content(device)
    assert found[-512:][:8] == gpt.SIGNATURE
    assert found[len(image.raw) - 512 :][:8] != gpt.SIGNATURE, "the old one is still there"
    assert done.backup_table_at == DEVICE - 33 * 512


@pytest.mark.parametrize("more", [0, 512, 8192, 33 * 512])
def test_a_device_hardly_larger_than_the_image_takes_it(
    image: DiskImage, tmp_path: Path, more: int
) -> None:
    with loop(tmp_path / "disk", len(image.raw) + more, fill=0xFF) as device:
        written(image, device, FULL)
        check_table(device)
        end = partitions(image.raw[:MIB])[-1].end
        assert content(device)[MIB:end] == image.raw[MIB:end]


def test_a_device_as_large_as_the_image_has_its_very_bytes(
    image: DiskImage, tmp_path: Path
) -> None:
    with loop(tmp_path / "disk", len(image.raw), fill=0xFF) as device:
        written(image, device)
        assert partitions(content(device)[:MIB]) == partitions(image.raw[:MIB])
        table = 34 * 512
        assert content(device)[table : -33 * 512] == image.raw[table : -33 * 512]


def test_a_disk_with_4_kib_sectors_takes_an_image_made_for_them(tmp_path: Path) -> None:
    image = disk_image(raw_disk(tmp_path, 16, sector=4096))
    with loop(tmp_path / "disk", DEVICE, "--sector-size=4096", fill=0xFF) as device:
        written(image, device, replace(FULL, stamp=STAMP))
        check_table(device)
        assert content(device)[MIB : 15 * MIB] == image.raw[MIB : 15 * MIB]


def test_an_image_made_for_other_sectors_is_refused_by_name(
    image: DiskImage, tmp_path: Path
) -> None:
    with loop(tmp_path / "disk", DEVICE, "--sector-size=4096", fill=0xFF) as device:
        with pytest.raises(ImageError, match=r"sectors of 512 bytes, those of \S+ have 4096"):
            written(image, device)
        assert unbootable(device)


def test_an_image_that_ends_inside_a_sector_is_filled_up_with_zeros(tmp_path: Path) -> None:
    image = disk_image(random.Random(7).randbytes(5 * MIB + 700))
    with loop(tmp_path / "disk", 8 * MIB, "--sector-size=4096", fill=0xFF) as device:
        done = written(image, device, FULL)
        found = content(device)
    assert found[: len(image.raw)] == image.raw
    assert not any(found[len(image.raw) : 5 * MIB + 4096])
    assert done.backup_table_at is None


@pytest.mark.parametrize("size", [1, 512, MIB, MIB + 1, 2 * MIB, 2 * MIB + 4096])
def test_small_images_are_all_end(tmp_path: Path, size: int) -> None:
    image = disk_image(random.Random(size).randbytes(size), 64 << 10)
    with loop(tmp_path / "disk", 8 * MIB, fill=0xFF) as device:
        written(image, device, FULL)
        assert content(device)[:size] == image.raw


# --- our own MiB ---


def test_the_stamp_is_the_last_entry_and_its_content_lies_where_it_says(
    image: DiskImage, device: Path
) -> None:
    written(image, device, replace(SAMPLE, stamp=STAMP))
    check_table(device)
    found = content(device)
    *others, ours = gpt.parse(found[:MIB]).partitions
    assert others == partitions(image.raw[:MIB])
    assert (ours.number, ours.name, ours.partuuid) == (128, NAME, STAMP.partuuid)
    assert found[ours.start : ours.end].rstrip(b"\0") == MARKER
    assert ours.start == place(DEVICE)
    assert ours.end <= DEVICE - MIB


def test_a_failed_run_leaves_a_disk_that_is_known_as_ours(image: DiskImage, device: Path) -> None:
    options = replace(SAMPLE, stamp=STAMP)
    written(image, device, options)
    with Crooked(image.files, always(Flip())) as server, pytest.raises(ImageError):
        flash(image.manifest, source(server), Target(device), options)
    assert unbootable(device)
    assert content(device)[place(DEVICE) :].startswith(UNDER_WAY)
    assert MARKER not in content(device)[place(DEVICE) :]


def test_an_image_without_a_table_takes_no_stamp(tmp_path: Path) -> None:
    image = disk_image(random.Random(1).randbytes(4 * MIB))
    with loop(tmp_path / "disk", 16 * MIB, fill=0xFF) as device:
        with pytest.raises(ImageError, match="has no GUID partition table"):
            written(image, device, replace(SAMPLE, stamp=STAMP))
        assert unbootable(device)


# --- zeros ---


@pytest.mark.parametrize("ways", [HOW, HOW[1:], HOW[2:]])
def test_each_way_to_zero_makes_zeros_and_nothing_else(device: Path, ways: tuple[str, ...]) -> None:
    with opened(Target(device)) as target:
        zeroes = Zeroes(target, ways)
        done = sum(zeroes.make(3 * MIB, 9 * MIB + 4096, threading.Event()))
        target.flush()
    found = content(device)
    assert (done, zeroes.made, zeroes.how) == (9 * MIB + 4096, 9 * MIB + 4096, ways[0])
    assert not any(found[3 * MIB : 12 * MIB + 4096])
    assert set(found[: 3 * MIB]) == set(found[12 * MIB + 4096 :]) == {0xFF}


def test_what_a_device_refuses_is_done_in_the_next_way(device: Path) -> None:
    """A hole that does not end with a sector is refused (EINVAL), as by a device without any."""
    with opened(Target(device)) as target:
        target.write(0, memoryview(pages(MIB)))
        zeroes = Zeroes(target)
        with suppress(StepError):
            list(zeroes.make(3 * MIB, 700, threading.Event()))
        assert zeroes.how == "written"


# --- the device ---


def test_a_device_that_is_too_small_is_not_touched(image: DiskImage, tmp_path: Path) -> None:
    size = len(image.raw) - 4096
    with loop(tmp_path / "disk", size, fill=0xFF) as device:
        with pytest.raises(StepError, match=rf"has {size} bytes, the image .* {len(image.raw)}"):
            written(image, device)
        assert set(content(device)) == {0xFF}


def test_a_device_without_room_for_the_stamp_is_not_touched(
    image: DiskImage, tmp_path: Path
) -> None:
    with loop(tmp_path / "disk", len(image.raw) + MIB, fill=0xFF) as device:
        with pytest.raises(StepError, match="needs"):
            written(image, device, replace(SAMPLE, stamp=STAMP))
        assert set(content(device)) == {0xFF}


def test_a_path_without_a_device_does_not_become_a_file(image: DiskImage, tmp_path: Path) -> None:
    path = tmp_path / "sdx"
    with pytest.raises(StepError, match="sdx: is gone"):
        written(image, path)
    assert not path.exists()
    path.write_bytes(b"a file")
    with pytest.raises(StepError, match="sdx: is no block device"):
        written(image, path)
    assert path.read_bytes() == b"a file"


def test_a_device_that_somebody_uses_is_refused(image: DiskImage, device: Path) -> None:
    holder = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(StepError, match="is in use"):
            written(image, device)
    finally:
        os.close(holder)
    assert set(content(device)) == {0xFF}


def test_a_lock_that_udev_holds_is_waited_for(image: DiskImage, device: Path) -> None:
    holder = os.open(device, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_SH)
    began = time.monotonic()
    release = threading.Timer(0.4, os.close, (holder,))
    release.start()
    written(image, device)
    release.join()
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({"size": DEVICE - 512}, rf"has {DEVICE} bytes, the chosen one has {DEVICE - 512}"),
        ({"number": os.makedev(8, 0)}, r"is device 7:\d+, not the one that was chosen"),
    ],
)
def test_another_device_behind_the_path_is_not_touched(
    image: DiskImage, device: Path, known: dict[str, Any], reason: str
) -> None:
    with pytest.raises(StepError, match=reason):
        flash(image.manifest, local(device), Target(device, **known), SAMPLE)
    assert set(content(device)) == {0xFF}
    number = device.stat().st_rdev
    with Crooked(image.files) as server:
        flash(image.manifest, source(server), Target(device, DEVICE, number), SAMPLE)


def test_a_device_that_takes_nothing_past_the_cache_is_written_through_it(device: Path) -> None:
    """A write from the middle of a page is refused past the cache (EINVAL)."""
    with opened(Target(device)) as target, memoryview(pages(MIB)) as memory:
        memory[:] = random.Random(5).randbytes(MIB)
        for number in range(12):
            target.write(number * 8192, memory[1 : 1 + 8192])
        assert target.direct is False
        target.flush()
        back = memoryview(pages(8192))
        target.read(11 * 8192, back)
        assert back == memory[1 : 1 + 8192]
        assert content(device)[: 12 * 8192] == bytes(memory[1 : 1 + 8192]) * 12


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that says it has 40 MiB and fails in the middle: what is behind it has 12."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "small", small], check=True)
    try:
        with loop(small / "disk", DEVICE) as device:
            yield device
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_device_that_fails_is_named_with_the_place(image: DiskImage, full_disk: Path) -> None:
    with pytest.raises(StepError) as caught:
        written(image, full_disk)
    assert not isinstance(caught.value, ImageError)
    text = str(caught.value)
    assert text.startswith(f"{full_disk}: cannot be written at byte "), text
    assert text.endswith(f"has no space left, though it says it has {DEVICE} bytes"), text
    assert not any(content(full_disk)[:MIB])


def fill(target: Device) -> None:
    with memoryview(pages(4 * MIB)) as memory:
        memory[:] = b"x" * len(memory)
        for at in range(0, 32 * MIB, len(memory)):
            target.write(at, memory)
    target.flush()


def test_a_failure_that_shows_only_when_flushed_is_no_success(full_disk: Path) -> None:
    descriptor = os.open(full_disk, os.O_RDWR)
    try:
        target = Device(full_disk, descriptor, direct=False)
        with pytest.raises(StepError, match="input/output"):
            fill(target)
    finally:
        os.close(descriptor)


# --- the read-back ---


def overwrite(backing: Path, at: int) -> Callable[[int, int], None]:
    """Return a progress callback that spoils the disk once everything was written."""
    spoilt = threading.Event()

    def progress(done: int, total: int) -> None:
        # Both ends are reported too, though they are still in memory.
        if done >= 24 * MIB - MIB and not spoilt.is_set():
            spoilt.set()
            with backing.open("r+b") as file:
                for number in range(1, 22):
                    file.seek(number * MIB + at)
                    file.write(b"\x55" * (MIB - at))

    return progress


def test_a_sample_finds_a_disk_that_lost_what_it_took(image: DiskImage, tmp_path: Path) -> None:
    with (
        loop(tmp_path / "disk", DEVICE, fill=0xFF) as device,
        Crooked(image.files) as server,
    ):
        spoil = overwrite(tmp_path / "disk", 0)
        with pytest.raises(StepError, match=r"reads back other bytes from \d+ to \d+"):
            flash(image.manifest, source(server), Target(device), SAMPLE, spoil)
        assert unbootable(device)


def test_a_full_read_back_finds_a_single_bit(image: DiskImage, device: Path) -> None:
    """The manifest's digest of the whole image is another than what its chunks make."""
    raw = bytearray(image.raw)
    raw[12 * MIB + 17] ^= 1
    other = image.manifest.model_copy(update={"sha256": sha256(raw).hexdigest()})
    with Crooked(image.files) as server:
        with pytest.raises(StepError, match="reads back an image with sha256"):
            flash(other, source(server), Target(device), FULL)
        assert unbootable(device)
        flash(other, source(server), Target(device), SAMPLE)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    with loop(tmp_path / "other", DEVICE, fill=0xFF) as found:
        yield found


@pytest.mark.parametrize("options", [SAMPLE, FULL], ids=["sample", "full"])
def test_each_leg_of_a_mirror_is_read_back(
    image: DiskImage, device: Path, other_disk: Path, tmp_path: Path, options: FlashOptions
) -> None:
    """Two devices over one file stand for legs that have it all; another never gets a byte."""
    alone = written(image, device, options).read_back
    told: list[tuple[int, int]] = []
    with loop(tmp_path / "disk") as one, loop(tmp_path / "disk") as two:
        with Crooked(image.files) as server:
            target = Target(device, legs=(one, two))
            done = flash(
                image.manifest, source(server), target, options, lambda *at: told.append(at)
            )
            assert done.read_back == 2 * alone > 0
            assert told[-1][0] == told[-1][1]
            spoilt = Target(device, legs=(one, other_disk))
            with pytest.raises(StepError, match=f"{other_disk}: reads back"):
                flash(image.manifest, source(server), spoilt, options)
        assert unbootable(device)


def test_a_leg_that_lost_the_table_alone_is_found(image: DiskImage, tmp_path: Path) -> None:
    """What is written last is compared on every leg too."""
    with loop(tmp_path / "disk", DEVICE) as device, Crooked(image.files) as server:
        flash(image.manifest, source(server), Target(device), SAMPLE)
        shutil.copyfile(tmp_path / "disk", tmp_path / "copy")
        with (tmp_path / "copy").open("r+b") as file:
            file.write(bytes(MIB))
        with (
            loop(tmp_path / "copy") as leg,
            pytest.raises(StepError, match=f"{leg}: reads back other bytes from 0 to"),
        ):
            flash(image.manifest, source(server), Target(device, legs=(device, leg)), FULL)
        assert unbootable(device)


# --- the mirrors ---


@pytest.mark.parametrize("number", [0, 1, 8, 23])
def test_a_chunk_that_is_never_right_leaves_nothing_that_boots(
    image: DiskImage, device: Path, number: int
) -> None:
    written(image, device)  # a disk that booted before
    chunk = image.manifest.chunks[number]
    payload = bytearray(image.payload)
    payload[chunk.at + chunk.stored // 2] ^= 1
    broken = {PAYLOAD: bytes(payload)}
    with Crooked(broken) as server, pytest.raises(ImageError, match=f"chunk {number} "):
        flash(image.manifest, source(server), Target(device), SAMPLE)
    assert unbootable(device)


def test_a_mirror_that_fails_in_between_is_left_for_another(image: DiskImage, device: Path) -> None:
    with Crooked(image.files, first(Flip(), Status(503))) as one, Crooked(image.files) as other:
        done = flash(image.manifest, source(one, other), Target(device), FULL)
    assert done.corrupt == {one.url(PAYLOAD): 1}
    assert sum(done.received.values()) == sum(c.stored for c in image.manifest.chunks if not c.zero)


def test_a_mirror_without_ranges_is_read_from_front_to_back(image: DiskImage, device: Path) -> None:
    with Crooked(image.files, always(IgnoreRange())) as server:
        flash(image.manifest, source(server), Target(device), FULL)
    assert content(device)[MIB : 23 * MIB] == image.raw[MIB : 23 * MIB]


def test_progress_grows_to_the_total_and_counts_the_read_back(
    image: DiskImage, device: Path
) -> None:
    told: list[tuple[int, int]] = []
    with Crooked(image.files) as server:
        for options in (SAMPLE, FULL):
            told.clear()
            flash(
                image.manifest,
                source(server),
                Target(device),
                options,
                lambda done, total: told.append((done, total)),
            )
            assert told == sorted(told)
            again = len(image.raw) - 2 * MIB if options is FULL else 0
            assert told[-1] == (len(image.raw) + again, len(image.raw) + again)


def test_a_stop_from_outside_ends_every_thread_and_leaves_nothing_that_boots(
    image: DiskImage, device: Path
) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with Crooked(image.files) as server, pytest.raises(KeyboardInterrupt):
        flash(image.manifest, source(server), Target(device), SAMPLE, interrupted)
    assert unbootable(device)
    assert threading.active_count() <= before


def test_what_is_no_disk_image_is_refused_before_the_device_is_opened(
    image: DiskImage, tmp_path: Path
) -> None:
    nowhere = Target(tmp_path / "nowhere")
    chunks = list(image.manifest.chunks)
    first_, second = chunks[0], chunks[1]
    chunks[0] = replace(first_, length=first_.length - 512)
    chunks[1] = Chunk(
        second.offset - 512, second.length + 512, second.at, second.stored, second.sha256
    )
    displaced = image.manifest.model_copy(update={"chunks": tuple(chunks)})
    with pytest.raises(ImageError, match=f"chunk 1 begins at {MIB - 512}, must be a multiple"):
        flash(displaced, local(tmp_path), nowhere, SAMPLE)
    tree = image.manifest.model_copy(update={"kind": "tree"})
    with pytest.raises(ImageError, match="is a tree, not a whole disk"):
        flash(tree, local(tmp_path), nowhere, SAMPLE)
