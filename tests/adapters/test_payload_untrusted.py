"""An archive that nobody has signed brings nothing to become root by."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.command import feeding
from agent.errors import CommandError, ImageError
from agent.payload.tree import extract
from agent.payload.untrusted import DROPPED
from tests.adapters.tails import tail_last
from tests.unit.payload.images import member, tar_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="lays files of all owners: needs root")

CAPABILITY = {"SCHILY.xattr.security.capability": "\1\0\0\2\0\40\0\0" + "\0" * 12}
PRIVILEGED = {
    "a block device": (
        member("dev/disk", type=tarfile.BLKTYPE, devmajor=254),
        "dev/disk: is a block device",
    ),
    "a character device": (
        member("dev/mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1),
        "dev/mem: is a character device",
    ),
    "a set-user-id file": (member("bin/sh", mode=0o4755), "bin/sh: has set-id bits"),
    "a set-group-id file": (member("bin/sh", mode=0o2755), "bin/sh: has set-id bits"),
    "a hard link with set-id bits": (
        member("b", type=tarfile.LNKTYPE, linkname="first", mode=0o4755),
        "b: has set-id bits",
    ),
    "capabilities": (member("ping", pax_headers=CAPABILITY), "ping: has capabilities"),
}
FIRST = (member("first", b"1"), b"1")


def pieces(archive: bytes, size: int = 300) -> Iterator[bytes]:
    for start in range(0, len(archive), size):
        yield archive[start : start + size]


@pytest.mark.parametrize(
    ("what", "form"),
    [
        *((what, tarfile.PAX_FORMAT) for what in PRIVILEGED),
        *((what, tarfile.GNU_FORMAT) for what in PRIVILEGED if what != "capabilities"),
    ],
)
def test_what_brings_privileges_is_refused_by_name(what: str, form: int, tmp_path: Path) -> None:
    header, words = PRIVILEGED[what]
    archive = tar_of([FIRST, (header, b"")], form)
    with pytest.raises(ImageError, match=f"{words}, which only a signed image may bring$"):
        extract(pieces(archive), tmp_path, feeding, size=len(archive), trusted=False)
    assert not (tmp_path / header.name).exists()


@pytest.mark.parametrize("what", PRIVILEGED)
def test_a_signed_image_may_bring_it(what: str, tmp_path: Path) -> None:
    header, _ = PRIVILEGED[what]
    archive = tar_of([FIRST, (header, b"")])
    extract(pieces(archive), tmp_path, feeding, size=len(archive))
    assert (tmp_path / header.name).exists()


def test_several_tars_get_no_more_than_one(tmp_path: Path) -> None:
    header, words = PRIVILEGED["a set-user-id file"]
    files = [(member(f"f{n}", bytes(900)), bytes(900)) for n in range(9)]
    cut = tail_last(tar_of([*files, (header, b"")]), chunk=2_000)
    with pytest.raises(ImageError, match=words):
        extract(iter(cut.chunks), tmp_path, feeding, size=cut.size, cuts=cut.cuts, trusted=False)
    assert not (tmp_path / "bin").exists()


def test_everything_else_arrives(tmp_path: Path) -> None:
    members = [
        FIRST,
        (member("tmp", type=tarfile.DIRTYPE, mode=0o1777), b""),
        (member("mail", type=tarfile.DIRTYPE, mode=0o2775, gid=8), b""),
        (member("pipe", type=tarfile.FIFOTYPE), b""),
        (member("link", type=tarfile.SYMTYPE, linkname="first", mode=0o6777), b""),
        (member("same", type=tarfile.LNKTYPE, linkname="first"), b""),
        (member("noted", uid=7, pax_headers={"SCHILY.xattr.user.note": "kept"}), b""),
    ]
    archive = tar_of(members)
    extract(pieces(archive), tmp_path, feeding, size=len(archive), trusted=False)
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "mail").stat().st_mode) == 0o2775
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "same").samefile(tmp_path / "link")
    assert os.getxattr(tmp_path / "noted", "user.note") == b"kept"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (tar_of([FIRST]) + tar_of([FIRST]), "has more after its end"),
        (tar_of([FIRST])[:700], "ends at byte"),
        (b"no archive at all" * 100, "is no tar archive"),
    ],
    ids=["two archives in one", "truncated", "garbage"],
)
def test_what_readers_could_understand_differently_is_refused(
    raw: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=words):
        extract(pieces(raw), tmp_path, feeding, size=len(raw), trusted=False)


def test_tar_itself_can_make_no_device_and_no_capability(tmp_path: Path) -> None:
    """Should the reader ever miss one: the kernel refuses it to this tar."""
    with pytest.raises(CommandError, match="Cannot mknod: Operation not permitted"):
        lay_without_the_reader(tar_of([(PRIVILEGED["a block device"][0], b"")]), tmp_path)
    lay_without_the_reader(tar_of([(PRIVILEGED["capabilities"][0], b"")]), tmp_path)
    assert os.listxattr(tmp_path / "ping") == []


def lay_without_the_reader(archive: bytes, root: Path) -> None:
    options = ("--xattrs", "--xattrs-include=*", "-xC", root)
    with feeding(*DROPPED, "tar", *options, "--file=-") as pipe:
        pipe.write(archive)
