"""Hard links between file systems: taken out on the way to tar, copied afterwards."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ImageError
from agent.payload.apart import Apart, crosses, device_below
from tests.unit.payload.images import member, tar_of

KERNEL = "usr/lib/modules/7.2/vmlinuz"
LONG = "usr/share/" + "a" * 120
MEMBERS = (
    (member("usr/lib/modules/7.2", type=tarfile.DIRTYPE), b""),
    (member("boot/vmlinuz", b"kernel"), b"kernel"),
    (member(KERNEL, type=tarfile.LNKTYPE, linkname="./boot/vmlinuz"), b""),
    (member(LONG, b"name"), b"name"),
    (member("usr/bin/same", type=tarfile.LNKTYPE, linkname=LONG), b""),
    (member(f"boot/{'b' * 120}", type=tarfile.LNKTYPE, linkname=LONG), b""),
)
ARCHIVE = tar_of(MEMBERS)


def device(path: str) -> int:
    """/boot is a file system of its own."""
    return 1 if path.startswith("boot/") else 0


def pieces(length: int) -> Iterator[bytes]:
    for start in range(0, len(ARCHIVE), length):
        yield ARCHIVE[start : start + length]


@given(st.integers(1, len(ARCHIVE)))
def test_what_goes_to_tar_is_as_long_and_has_all_but_those_links(length: int) -> None:
    apart = Apart(device)
    sifted = b"".join(apart.sifted(pieces(length)))
    assert len(sifted) == len(ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(sifted), ignore_zeros=True) as archive:
        names = archive.getnames()
    assert names == ["usr/lib/modules/7.2", "boot/vmlinuz", LONG, "usr/bin/same"]
    assert apart.links == [(KERNEL, "boot/vmlinuz"), (f"boot/{'b' * 120}", LONG)]


def test_what_is_on_one_file_system_passes_as_it_is() -> None:
    apart = Apart(lambda path: 0)
    assert b"".join(apart.sifted(pieces(1000))) == ARCHIVE
    assert apart.links == []


def test_what_is_no_archive_is_named() -> None:
    with pytest.raises(ImageError, match="no tar archive"):
        list(Apart(device).sifted([b"x" * 2048]))


def test_directories_that_share_a_link_are_compared_by_where_they_lie() -> None:
    assert crosses([("/boot", "/usr/lib/modules")], device)
    assert not crosses([("/usr/bin", "/usr/lib/git-core")], device)
    assert not crosses([], device)


def test_what_is_not_there_yet_will_lie_where_the_directory_above_it_lies(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    found = device_below(tmp_path)
    assert found("boot/vmlinuz") == found("a/b/c") == tmp_path.stat().st_dev
    with pytest.raises(ImageError, match="is not there"):
        device_below(tmp_path / "none")("boot/vmlinuz")


@pytest.fixture
def apart() -> Apart:
    made = Apart(device)
    assert b"".join(made.sifted(pieces(512)))
    return made


def test_a_copy_has_the_content_mode_time_and_attributes_of_the_file(
    tmp_path: Path, apart: Apart
) -> None:
    (tmp_path / KERNEL).parent.mkdir(parents=True)
    (tmp_path / LONG).parent.mkdir(parents=True)
    (tmp_path / LONG).write_bytes(b"name")
    (tmp_path / "boot").mkdir()
    kernel = tmp_path / "boot/vmlinuz"
    kernel.write_bytes(b"kernel")
    kernel.chmod(0o4600)
    os.utime(kernel, ns=(1, 1_600_000_000_123_456_789))
    os.setxattr(kernel, "user.note", b"kept")
    os.utime((tmp_path / KERNEL).parent, ns=(1, 1_500_000_000_000_000_000))
    apart.copy(tmp_path)
    copy = tmp_path / KERNEL
    assert copy.read_bytes() == b"kernel"
    assert not copy.samefile(kernel)
    assert copy.stat().st_mode == kernel.stat().st_mode
    assert copy.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert os.getxattr(copy, "user.note") == b"kept"
    assert copy.parent.stat().st_mtime_ns == 1_500_000_000_000_000_000


def test_a_directory_that_leads_out_is_refused(tmp_path: Path, apart: Apart) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "boot").mkdir(parents=True)
    (root / "boot/vmlinuz").write_bytes(b"kernel")
    (outside / "lib/modules/7.2").mkdir(parents=True)
    (root / "usr").symlink_to(outside)
    with pytest.raises(ImageError, match="leads out of"):
        apart.copy(root)
    assert list((outside / "lib/modules/7.2").iterdir()) == []


def test_a_link_to_what_is_no_regular_file_is_refused(tmp_path: Path, apart: Apart) -> None:
    (tmp_path / KERNEL).parent.mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz").symlink_to("/etc/passwd")
    with pytest.raises(ImageError, match="no regular file"):
        apart.copy(tmp_path)


def test_a_copy_that_cannot_be_made_is_named(tmp_path: Path, apart: Apart) -> None:
    (tmp_path / KERNEL).parent.mkdir(parents=True)
    with pytest.raises(ImageError, match=f"{KERNEL}: cannot be a copy of boot/vmlinuz"):
        apart.copy(tmp_path)
