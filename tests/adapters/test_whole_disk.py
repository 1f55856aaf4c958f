"""What the inventory says of a disk that a whole-disk image was written to, or half written (root).

The images port writes to a loop device, the disk reader looks at it with real wipefs and sfdisk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from agent.adapters.disks import DiskReader
from agent.adapters.images import HttpImages
from agent.adapters.storage.stack import Kernel, kernel_name
from agent.errors import ImageError, StepError
from agent.inventory.model import Disk, Marker
from agent.payload import gpt
from agent.payload.direct import Target
from agent.payload.stamp import Stamp
from agent.target import marker
from tests.adapters.crooked import Crooked, Flip, always
from tests.adapters.disks import MIB, PAYLOAD, DiskImage, disk_image, loop, raw_disk, source

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices are for root")

NOTE = Marker(
    plan=UUID(int=5), hostname="app.example.com", machine="CZ1", finished="2026", esp=UUID(int=1)
)
STAMP = Stamp(UUID(int=2), lambda: marker.render(NOTE))
SIZE = 40 * MIB


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> DiskImage:
    return disk_image(raw_disk(tmp_path_factory.mktemp("disk")))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    with loop(tmp_path / "disk", SIZE, "--partscan", fill=0xFF) as found:
        yield found


def seen(device: Path) -> Disk:
    return DiskReader()._disk(kernel_name(device), {})


def flash(image: DiskImage, device: Path, server: Crooked, verify: str = "sample") -> None:
    HttpImages(()).flash(
        image.manifest,
        source(server),
        Target(device, SIZE),
        STAMP,
        verify="full" if verify == "full" else "sample",
        progress=lambda done, total: None,
    )


def test_a_finished_installation_is_known_by_its_plan(image: DiskImage, device: Path) -> None:
    before = seen(device)
    assert (before.ours, before.marker) == (False, None)
    with Crooked(image.files) as server:
        flash(image, device, server, "full")
    assert seen(device).marker == NOTE


def test_what_a_failed_run_left_is_ours_and_not_finished(image: DiskImage, device: Path) -> None:
    with Crooked(image.files) as server:
        flash(image, device, server)
        server.script = always(Flip())
        with pytest.raises(ImageError):
            flash(image, device, server)
    found = seen(device)
    assert [content.kind for content in found.content] == ["bedplate-image"]
    assert (found.ours, found.marker) == (True, None)


def test_a_node_that_is_another_device_is_not_written(image: DiskImage, tmp_path: Path) -> None:
    """A node that somebody made in /dev, with the name of one device and the number of another."""
    with loop(tmp_path / "one", SIZE) as one, loop(tmp_path / "two", SIZE, fill=0xFF) as two:
        number = Kernel().number(kernel_name(one))
        assert number == one.stat().st_rdev
        hidden = one.with_name(f"{one.name}.hidden")
        one.rename(hidden)
        try:
            os.mknod(one, 0o660 | 0o060000, two.stat().st_rdev)
            with Crooked(image.files) as server, pytest.raises(StepError, match="not the one"):
                flash(image, one, server)
        finally:
            one.unlink()
            hidden.rename(one)
        assert (tmp_path / "two").read_bytes() == b"\xff" * SIZE


def test_the_table_is_read_before_anything_is_written(image: DiskImage) -> None:
    with Crooked(image.files) as server:
        found = HttpImages(()).head(image.manifest, source(server))
        assert found == image.raw[:MIB]
        assert len(server.requests) == 1
    assert gpt.parse(found).esp is not None
    broken = bytearray(image.payload)
    broken[10] ^= 1
    with Crooked({PAYLOAD: bytes(broken)}) as server, pytest.raises(ImageError, match="chunk 0"):
        HttpImages(()).head(image.manifest, source(server))
