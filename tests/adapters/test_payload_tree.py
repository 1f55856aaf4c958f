"""Laying a tree by real GNU tar: everything a root file system has arrives, nothing goes elsewhere.

Needs root, as the live system has it: owners, device nodes, labels, a private mount namespace.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.command import feeding, run
from agent.errors import ImageError
from agent.payload.apart import apart_of
from agent.payload.tree import extract
from tests.adapters.disks import released
from tests.unit.payload.images import member, tar_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="lays files of all owners: needs root")

PIECE = 70_001
LABEL = "system_u:object_r:bin_t:s0"


def pieces(archive: bytes) -> Iterator[bytes]:
    for start in range(0, len(archive), PIECE):
        yield archive[start : start + PIECE]


def lay(archive: bytes, root: Path) -> None:
    root.mkdir(exist_ok=True)
    extract(pieces(archive), root, feeding, size=len(archive))


def gnu_tar(directory: Path, *options: str) -> bytes:
    command = ["tar", "--create", "--file=-", *options, "--directory", str(directory), "."]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A tree with everything that is easily lost on the way."""
    tree = tmp_path / "original"
    tree.mkdir()
    (tree / "directory").mkdir(mode=0o1777)
    (tree / "directory").chmod(0o1777)
    (tree / "file").write_text("content")
    (tree / "name with\nnewline and ünïcode").write_text("x")
    os.chown(tree / "file", 12345, 54321)
    (tree / "sudo").write_text("#!")
    (tree / "sudo").chmod(0o4755)
    (tree / "directory" / "hard").hardlink_to(tree / "file")
    (tree / "soft").symlink_to("/etc/passwd")
    os.lchown(tree / "soft", 7, 8)
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with (tree / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(64 << 20)
        file.write(b"end")
    os.setxattr(tree / "file", "user.note", b"kept")
    os.setxattr(tree / "file", "trusted.overlay.opaque", b"y")
    os.setxattr(tree / "sudo", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    os.setxattr(tree / "soft", "security.selinux", LABEL.encode() + b"\0", follow_symlinks=False)
    os.setxattr(tree / "directory", "security.selinux", LABEL.encode() + b"\0")
    run("setfacl", "-m", "u:4711:rw", tree / "file")
    run("setfacl", "-d", "-m", "g:4712:rx", tree / "directory")
    for path in ("directory", "file", "."):
        os.utime(tree / path, ns=(1, 1_600_000_000_123_456_789))
    return tree


def test_everything_arrives(original: Path, root: Path) -> None:
    lay(gnu_tar(original, "--xattrs", "--xattrs-include=*", "--acls", "--sparse"), root)
    for path in sorted(original.rglob("*")):
        there, here = os.lstat(path), os.lstat(root / path.relative_to(original))
        for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_rdev", "st_nlink"):
            assert getattr(here, field) == getattr(there, field), (path, field)
        if not path.is_symlink():
            assert here.st_mtime_ns == there.st_mtime_ns, path
        names = os.listxattr(path, follow_symlinks=False)
        there_attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in names}
        copy = root / path.relative_to(original)
        names = os.listxattr(copy, follow_symlinks=False)
        assert {n: os.getxattr(copy, n, follow_symlinks=False) for n in names} == there_attributes
    assert (root / "file").samefile(root / "directory/hard")
    assert (root / "soft").readlink() == Path("/etc/passwd")
    assert (root / "sparse").stat().st_blocks * 512 < 1 << 20
    assert "user:4711:rw-" in run("getfacl", "-n", root / "file")
    assert "default:group:4712:r-x" in run("getfacl", "-n", root / "directory")
    assert root.stat().st_mtime_ns == 1_600_000_000_123_456_789


def test_labels_arrive_however_the_builder_wrote_them(root: Path) -> None:
    archive = tar_of(
        [
            (member("xattrs", pax_headers={"SCHILY.xattr.security.selinux": LABEL + "\0"}), b""),
            (member("selinux", pax_headers={"RHT.security.selinux": LABEL}), b""),
        ]
    )
    lay(archive, root)
    for name in ("xattrs", "selinux"):
        assert os.getxattr(root / name, "security.selinux").rstrip(b"\0").decode() == LABEL


@pytest.fixture
def boot(root: Path) -> Iterator[Path]:
    """Have /boot in a file system of its own."""
    place = root / "boot"
    place.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "boot", place)
    try:
        yield place
    finally:
        run("umount", place)


def test_a_link_between_two_volumes_becomes_a_copy(root: Path, boot: Path) -> None:
    """As Debian 14's kernels come: one in /usr/lib/modules, and a link to it in /boot."""
    kernel = "usr/lib/modules/7.2/vmlinuz"
    archive = tar_of(
        [
            (member("boot/vmlinuz", b"kernel", uid=4711, mode=0o600), b"kernel"),
            (member("boot/same", type=tarfile.LNKTYPE, linkname="boot/vmlinuz"), b""),
            (member("boot/config", b"config"), b"config"),
            (member("usr/lib/modules/7.2", type=tarfile.DIRTYPE, mode=0o755), b""),
            (member(kernel, type=tarfile.LNKTYPE, linkname="boot/vmlinuz"), b""),
            (member("usr/bin/last", b"last"), b"last"),
        ]
    )
    apart = apart_of([("/boot", "/usr/lib/modules")], root)
    extract(pieces(archive), root, feeding, size=len(archive), apart=apart)
    assert (root / kernel).read_bytes() == (boot / "vmlinuz").read_bytes() == b"kernel"
    assert (root / kernel).stat().st_uid == 4711
    assert (root / kernel).stat().st_mtime == (boot / "vmlinuz").stat().st_mtime == 1_700_000_000
    assert (root / "usr/lib/modules/7.2").stat().st_mtime == 1_700_000_000
    assert (boot / "same").samefile(boot / "vmlinuz")
    assert (root / "usr/bin/last").read_bytes() == b"last"


def test_where_no_link_leads_to_another_volume_none_is_looked_for(root: Path, boot: Path) -> None:
    assert apart_of([("/usr/bin", "/usr/lib/git-core")], root) is None
    assert apart_of([("/boot", "/usr/lib/modules")], boot) is None


def test_owners_are_numbers_and_not_names_of_the_live_system(root: Path) -> None:
    lay(tar_of([(member("a", uid=4711, gid=4712, uname="root", gname="root"), b"")]), root)
    owner = (root / "a").stat()
    assert (owner.st_uid, owner.st_gid) == (4711, 4712)


def test_progress_counts_the_bytes_of_the_archive(root: Path) -> None:
    archive = tar_of([(member("a", bytes(200_000)), bytes(200_000))])
    seen: list[tuple[int, int]] = []
    root.mkdir()
    extract(
        pieces(archive),
        root,
        feeding,
        size=len(archive),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (PIECE, len(archive))
    assert seen[-1] == (len(archive), len(archive))


def test_padding_after_the_end_of_the_archive_is_welcome(root: Path) -> None:
    lay(tar_of([(member("a", b"1"), b"1")]) + bytes(9 << 20), root)
    assert (root / "a").read_bytes() == b"1"


def test_an_overlay_keeps_links_to_directories_and_replaces_files(root: Path) -> None:
    base = [
        (member("usr/lib", type=tarfile.DIRTYPE, mode=0o755), b""),
        (member("lib", type=tarfile.SYMTYPE, linkname="usr/lib"), b""),
        (member("etc/motd", b"old"), b"old"),
        (member("etc/link", type=tarfile.SYMTYPE, linkname="motd"), b""),
    ]
    over = [
        (member("lib", type=tarfile.DIRTYPE, mode=0o755), b""),
        (member("lib/new", b"new"), b"new"),
        (member("etc/link", b"a file now"), b"a file now"),
    ]
    lay(tar_of(base), root)
    lay(tar_of(over), root)
    assert (root / "lib").is_symlink()
    assert (root / "usr/lib/new").read_bytes() == b"new"
    assert (root / "etc/motd").read_bytes() == b"old"
    assert (root / "etc/link").read_bytes() == b"a file now"
    assert not (root / "etc/link").is_symlink()


SYMLINK, HARDLINK, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


def hostile(outside: Path) -> dict[str, list[tarfile.TarInfo]]:
    """Return archives that try to reach a file or a directory outside."""
    to = str(outside)
    near = f"../{outside.name}"
    return {
        "climbing name": [member(f"{near}/new")],
        "climbing in the middle": [member(f"a/../../{outside.name}/new")],
        "through a link out": [member("a", type=SYMLINK, linkname=to), member("a/new")],
        "through a climbing link": [member("a", type=SYMLINK, linkname=near), member("a/new")],
        "through a chain of links": [
            member("d", type=DIRECTORY, mode=0o755),
            member("d/up", type=SYMLINK, linkname=".."),
            member("e", type=SYMLINK, linkname=f"d/up/{near}"),
            member("e/new"),
        ],
        "a hard link out, then written": [
            member("h", type=HARDLINK, linkname=f"{near}/secret"),
            member("h"),
        ],
        "a hard link to an absolute name": [
            member("h", type=HARDLINK, linkname=f"{to}/secret"),
            member("h"),
        ],
        "a hard link through a link": [
            member("a", type=SYMLINK, linkname=to),
            member("h", type=HARDLINK, linkname="a/secret"),
            member("h"),
        ],
        "a hard link to a link out": [
            member("a", type=SYMLINK, linkname=f"{to}/secret"),
            member("h", type=HARDLINK, linkname="a"),
            member("h/new"),
        ],
        "a directory swapped for a link": [
            member("a", type=DIRECTORY, mode=0o755),
            member("a/b"),
            member("a", type=SYMLINK, linkname=to),
            member("a/new"),
        ],
        # What lies in the tree already: an overlay over an image with such a link.
        "through a link that was there": [member("there/new")],
        "over a file behind a link that was there": [member("there/secret")],
        "a directory behind a link that was there": [
            member("there/new", type=DIRECTORY, mode=0o755)
        ],
        "a hard link behind a link that was there": [
            member("h", type=HARDLINK, linkname="there/secret"),
            member("h"),
        ],
        "modes behind a link that was there": [member("there", type=DIRECTORY, mode=0o777)],
        "through a climbing link that was there": [member("climbs/new")],
        "a link behind a link that was there": [
            member("there/new", type=SYMLINK, linkname="/etc/passwd")
        ],
        "a device behind a link that was there": [
            member("there/new", type=tarfile.BLKTYPE, devmajor=254, devminor=0)
        ],
    }


@pytest.mark.parametrize("attack", hostile(Path("/outside")))
def test_no_member_leaves_the_tree(attack: str, tmp_path: Path, root: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "secret").write_text("untouched")
    (outside / "secret").chmod(0o600)
    root.mkdir()
    (root / "there").symlink_to(outside)
    (root / "climbs").symlink_to("../outside")
    before = fingerprint(outside)
    archive = tar_of((header, b"") for header in hostile(outside)[attack])
    if attack == "modes behind a link that was there":
        lay(archive, root)  # the link leads nowhere in tar's root, so a directory takes its place
    else:
        with pytest.raises(ImageError, match="tar exited with status 2"):
            lay(archive, root)
    assert fingerprint(outside) == before


def fingerprint(directory: Path) -> list[tuple[str, int, int, int, int]]:
    paths = [directory, *sorted(directory.rglob("*"))]
    return [
        (str(p), s.st_mode, s.st_nlink, s.st_size, s.st_mtime_ns)
        for p in paths
        for s in [os.lstat(p)]
    ]


def test_an_absolute_name_lands_in_the_tree(root: Path) -> None:
    lay(tar_of([(member("/etc/hostname", b"new"), b"new")]), root)
    assert (root / "etc/hostname").read_bytes() == b"new"
    assert Path("/etc/hostname").read_bytes() != b"new"


def test_without_the_private_root_gnu_tar_would_write_outside(tmp_path: Path, root: Path) -> None:
    """The reason for extract.sh: what tar does on its own with a link that was there."""
    (tmp_path / "outside").mkdir()
    root.mkdir()
    (root / "there").symlink_to(tmp_path / "outside")
    archive = tar_of([(member("there/new"), b"")])
    subprocess.run(["tar", "-x", "-C", root, "-f", "-"], input=archive, check=True)
    assert (tmp_path / "outside/new").exists()


def test_no_mount_is_left_behind(root: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    lay(tar_of([(member("a"), b"")]), root)
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.fixture
def volumes(root: Path) -> Iterator[Path]:
    """A root with two small file systems mounted in it, one in a directory with odd letters."""
    root.mkdir()
    mounts = [root / "var", root / "with space\\and\nnewline"]
    for mount in mounts:
        mount.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount)
    try:
        yield root
    finally:
        for mount in mounts:
            run("umount", mount)


def test_volumes_mounted_in_the_tree_are_filled(volumes: Path) -> None:
    headers = [member("var/log", type=DIRECTORY), member("with space\\and\nnewline/a", b"x")]
    lay(tar_of([(headers[0], b""), (headers[1], b"x")]), volumes)
    assert (volumes / "var/log").is_dir()
    assert (volumes / "with space\\and\nnewline/a").read_bytes() == b"x"
    run("findmnt", volumes / "var")


def test_a_volume_that_is_full_is_a_named_failure(volumes: Path) -> None:
    content = bytes(range(256)) * (8 << 10)
    with pytest.raises(ImageError, match=r"root: \S+/root/var is full: tar exited with status 2"):
        lay(tar_of([(member("var/big", content), content)]), volumes)


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Path]:
    """A file system on a device that promises more than it can hold: writing to it fails late."""
    backing, mount = tmp_path / "backing", tmp_path / "mount"
    backing.mkdir()
    mount.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", backing)
    try:
        with (backing / "disk").open("wb") as disk:
            disk.truncate(64 << 20)
        run("mkfs.ext4", "-q", "-O", "^has_journal", backing / "disk")
        run("mount", "-o", "loop,errors=continue", backing / "disk", mount)
        try:
            yield mount
        finally:
            run("umount", mount)
            released(backing / "disk")
    finally:
        run("umount", backing)


def test_a_device_that_fails_after_tar_was_done_is_a_named_failure(failing: Path) -> None:
    content = bytes(range(1, 256)) * (16 << 10)
    with pytest.raises(ImageError, match=r"mount: cannot be written to its device: \w+"):
        lay(tar_of([(member("big", content), content)]), failing)


@pytest.mark.parametrize(
    "archive",
    [b"this is no archive" * 1000, tar_of([(member("a", bytes(99_999)), bytes(99_999))])[:-70_000]],
    ids=["garbage", "truncated"],
)
def test_what_is_no_archive_is_a_named_failure(archive: bytes, root: Path) -> None:
    with pytest.raises(ImageError, match=r"root: tar exited with status 2 after \d+ bytes: .*tar"):
        lay(archive, root)


def test_a_stream_that_fails_stops_tar_and_keeps_its_own_message(root: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield tar_of([(member("a", bytes(99_999)), bytes(99_999))])[:50_000]
        raise ImageError("chunk 7: no mirror has it")

    root.mkdir()
    with pytest.raises(ImageError, match=r"^chunk 7: no mirror has it$"):
        extract(broken(), root, feeding, size=100_000)


def test_a_stream_that_is_too_short_is_a_named_failure(root: Path) -> None:
    archive = tar_of([(member("a"), b"")])
    root.mkdir()
    with pytest.raises(ImageError, match="bytes long, must be"):
        extract(pieces(archive), root, feeding, size=len(archive) + 1)


def test_a_target_that_is_not_there_is_a_named_failure(root: Path) -> None:
    with pytest.raises(ImageError, match="root: cannot be opened: No such file or directory"):
        extract(pieces(b""), root, feeding, size=0)
