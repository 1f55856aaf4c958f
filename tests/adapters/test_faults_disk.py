"""Any sequence of faults while a disk is written: its every byte, or a name and no disk that boots.

Needs root, for loop devices.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.errors import ImageError
from agent.payload.direct import Target
from agent.payload.disk import FlashOptions, flash
from agent.payload.options import FetchOptions
from tests.adapters.crooked import (
    Crooked,
    Cut,
    CutBody,
    Fault,
    Flip,
    Gzip,
    Html,
    IgnoreRange,
    Redirect,
    Retag,
    Script,
    Stall,
    Status,
    Trickle,
    WrongLength,
    WrongRange,
    always,
    first,
    mirrors,
)
from tests.adapters.disks import (
    MIB,
    PAYLOAD,
    DiskImage,
    content,
    disk_image,
    loop,
    raw_disk,
    source,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices are for root")

OPTIONS = FetchOptions(
    connections=3, connect=1.0, stall=0.2, request=0.5, patience=1.5, warn=lambda message: None
)
SLACK = 10.0
"""Seconds for erasing, writing and reading back on a loaded test machine."""
SIZE = 12 * MIB
FAULTS: st.SearchStrategy[Fault] = st.one_of(
    st.builds(Cut, st.integers(0, 600_000)),
    st.builds(CutBody, st.integers(0, 600_000)),
    st.builds(Stall, st.integers(0, 600_000)),
    st.builds(Trickle, after=st.integers(0, 600_000)),
    st.builds(WrongLength, st.integers(-600_000, 600_000)),
    st.builds(WrongRange, st.integers(-9, 9), st.sampled_from([None, 1, 1 << 40])),
    st.builds(Status, st.sampled_from([404, 429, 500, 503]), st.sampled_from([None, "0", "1"])),
    st.builds(Flip, st.floats(0, 1), st.integers(0, 7)),
    st.builds(Retag, st.sampled_from(['"a"', '"b"', "W/x", ""])),
    st.builds(IgnoreRange, st.sampled_from([0, 1, 5000, 300_000]), st.booleans()),
    st.sampled_from([Html(), Gzip(), Redirect()]),
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> DiskImage:
    return disk_image(raw_disk(tmp_path_factory.mktemp("disk"), 10))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loop(tmp_path_factory.mktemp("target") / "disk", SIZE, fill=0xFF) as found:
        yield found


def written_or_unbootable(image: DiskImage, device: Path, one: Script, two: Script) -> bool:
    """Write the image from two mirrors; tell whether it is there. Anything between is a failure."""
    device.write_bytes(b"\xff" * SIZE)  # bootable, for all we know
    began = time.monotonic()
    servers = [Crooked(image.files, one), Crooked(image.files, two)]
    with mirrors(*servers):
        try:
            flash(image.manifest, source(*servers), Target(device), FlashOptions(OPTIONS))
        except ImageError as error:
            assert time.monotonic() - began < OPTIONS.patience + SLACK
            assert all(server.url(PAYLOAD) in str(error) for server in servers)  # noqa: PT017
            found = content(device)
            assert not any(found[:MIB])
            assert not any(found[-MIB:])
            return False
    inside = slice(MIB, len(image.raw) - MIB)
    found = content(device)
    assert found[inside] == image.raw[inside]
    assert found[:446] == image.raw[:446]
    return True


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(FAULTS, max_size=8), st.lists(FAULTS, max_size=8))
@example([], [])
def test_no_run_of_faults_leaves_a_disk_that_is_half_right(
    image: DiskImage, device: Path, one: list[Fault], two: list[Fault]
) -> None:
    written = written_or_unbootable(image, device, first(*one), first(*two))
    assert written or one or two


@pytest.mark.parametrize("fault", [Flip(0.5, 1), Stall(2000), Status(404), Cut(9000)], ids=str)
def test_one_honest_mirror_is_enough_for_a_disk(
    image: DiskImage, device: Path, fault: Fault
) -> None:
    assert written_or_unbootable(image, device, always(fault), first())


@pytest.mark.parametrize("fault", [Flip(0.5, 1), Stall(2000), Html(), Cut(9000)], ids=str)
def test_without_an_honest_mirror_the_disk_does_not_boot(
    image: DiskImage, device: Path, fault: Fault
) -> None:
    assert not written_or_unbootable(image, device, always(fault), always(fault))
