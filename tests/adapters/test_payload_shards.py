"""Several tars side by side leave what one tar leaves, stay inside, and end together."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from agent.adapters.command import feeding, run
from agent.errors import CommandError, ImageError
from agent.payload.apart import apart_of
from agent.payload.parents import Names, with_parents
from agent.payload.shards import PIECE, Chunk, Cuts, Shards, feed
from agent.payload.tree import extract
from tests.adapters.tails import Cut, each_alone, tail_last
from tests.adapters.test_payload_tree import fingerprint, gnu_tar, hostile
from tests.adapters.test_payload_tree import original as original  # a fixture
from tests.adapters.trees import snapshot, walk
from tests.unit.payload.images import member, tar_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="lays files of all owners: needs root")

SYMLINK, HARDLINK, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
Member = tuple[tarfile.TarInfo, bytes]
SLACK = 60.0
"""Seconds that a busy machine may take."""


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A file system that needs no flushing, for many small trees."""
    with tempfile.TemporaryDirectory() as mount:
        run("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", mount)
        try:
            yield Path(mount)
        finally:
            run("umount", mount)


@pytest.fixture
def root(memory: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=memory))


def lay(cut: Cut, root: Path) -> None:
    extract(iter(cut.chunks), root, feeding, size=cut.size, cuts=cut.cuts)


def lay_alone(archive: bytes, root: Path) -> None:
    extract(iter([archive]), root, feeding, size=len(archive))


def children() -> set[str]:
    found = set[str]()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # a thread of another test has just ended
            found |= set(task.read_text().split())
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Whatever the test does, no program, thread or mount is left of it."""
    programs, threads = children(), set(threading.enumerate())
    yield
    # What was there before may have ended meanwhile.
    assert not children() - programs
    assert not set(threading.enumerate()) - threads
    assert "bedplate" not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("chunk", [1_000, 6_000])
def test_everything_arrives_as_from_one_tar(
    original: Path, memory: Path, root: Path, chunk: int, nothing_left: None
) -> None:
    options = ("--xattrs", "--xattrs-include=*", "--acls", "--sparse")
    archive = gnu_tar(original, *options)
    alone = Path(tempfile.mkdtemp(dir=memory))
    lay_alone(archive, alone)
    cut = tail_last(archive, chunk=chunk)
    assert cut.cuts.heads.count(True) > 2
    lay(cut, root)
    found = snapshot(root)
    assert found == snapshot(alone)
    assert found["directory/hard"]["same as"] == found["file"]["same as"]
    assert found["sparse"]["sparse"]


NAMES = st.sampled_from(
    ["a", "b", "lib", "ünï", "new\nline", "n" * 120, "back\\slash", "-dash", "x" * 255]
)
MODES = st.integers(0, 0o7777)
LABEL = {"SCHILY.xattr.security.selinux": "system_u:object_r:bin_t:s0\0"}
EXTRAS = st.sampled_from(
    [
        {},
        {},
        LABEL,
        {"RHT.security.selinux": "u:r:t:s0"},
        {"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.trusted.overlay.opaque": "y"},
        {"SCHILY.acl.access": "user::rw-\nuser:4711:rw-\ngroup::r--\nmask::rw-\nother::---\n"},
    ]
)
DEFAULT = {"SCHILY.acl.default": "user::rwx\nuser:77:rwx\ngroup::r-x\nmask::rwx\nother::---\n"}
CONTENT = st.integers(0, 40_000)
SPECIAL = st.sampled_from([tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, SYMLINK])
OWNERS = st.sampled_from([0, 1, 65534, 4_000_000])


@st.composite
def trees(draw: st.DrawFn) -> bytes:
    """Draw an archive with directories before what is in them, each name once."""
    directories, taken, plain = [""], {""}, list[str]()
    found: list[Member] = []
    for _ in range(draw(st.integers(3, 25))):
        name = draw(st.sampled_from(directories)) + draw(NAMES)
        if name in taken:
            continue
        taken.add(name)
        fields: dict[str, object] = {
            "mode": draw(MODES),
            "uid": draw(OWNERS),
            "gid": draw(OWNERS),
            "mtime": draw(st.sampled_from([0, 1_600_000_000.25, 4_000_000_000])),
            "pax_headers": dict(draw(EXTRAS)),
        }
        what = draw(st.sampled_from(["directory", "file", "file", "special", "hard link"]))
        content = b""
        if what == "directory":
            directories.append(name + "/")
            default = draw(st.sampled_from([{}, DEFAULT]))
            fields |= {"type": DIRECTORY, "pax_headers": {**LABEL, **default}}
            if draw(st.integers(0, 4)) == 0:
                continue  # a directory that the archive does not name
        elif what == "special":
            fields |= {"type": draw(SPECIAL), "linkname": draw(NAMES), "pax_headers": {}}
            fields |= {"devmajor": 7, "devminor": draw(st.integers(0, 300))}
        elif what == "hard link" and plain:
            fields |= {"type": HARDLINK, "linkname": draw(st.sampled_from(plain))}
        else:
            plain.append(name)
            content = random.Random(name).randbytes(draw(CONTENT))
        found.append((member(name, content, **fields), content))
    return tar_of(found)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(archive=trees(), chunk=st.sampled_from([600, 5_000, 60_000]), lanes=st.integers(2, 4))
def test_any_tree_is_the_same_from_one_tar_and_from_several(
    archive: bytes, chunk: int, lanes: int, memory: Path
) -> None:
    one, several = (Path(tempfile.mkdtemp(dir=memory)) for _ in range(2))
    for root in (one, several):  # a mount point lies there already, with an ACL to inherit
        (root / "lib").mkdir()
        run("setfacl", "-d", "-m", "u:99:rwx", root / "lib")
        os.utime(root / "lib", (0, 0))
    alone = outcome(lambda: lay_alone(archive, one))
    event(f"unpacked: {alone is None}")
    cut = tail_last(archive, chunk=chunk, lanes=lanes)
    assert outcome(lambda: lay(cut, several)) == alone
    if alone is None:
        assert without_fresh_times(snapshot(several)) == without_fresh_times(snapshot(one))


def outcome(work: Callable[[], None]) -> type[BaseException] | None:
    try:
        work()
    except ImageError as error:
        return type(error)
    return None


def without_fresh_times(tree: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Leave out the times of what nobody set: directories the archive does not name, links."""
    now = time.time_ns()
    for what in tree.values():
        if now - int(str(what["st_mtime_ns"])) < 300_000_000_000:
            what["st_mtime_ns"] = "now"
    return tree


def test_directories_are_there_before_any_tar_is_given_a_file_in_them(root: Path) -> None:
    """Two tars that make the same directory at once give a file up now and then."""
    names = [f"a/{n}/b/./{n % 3}/file{m}" for n in range(50) for m in range(4)]
    cut = each_alone(tar_of((member(name), b"") for name in names))
    nobody = Replaced(dict.fromkeys(range(4), "cat >/dev/null"))
    extract(iter(cut.chunks), root, nobody, size=cut.size, cuts=cut.cuts)
    made = {str(path.relative_to(root)) for path in walk(root)}
    assert {f"a/{n}/b/{n % 3}" for n in range(50)} <= made
    assert len(made) == 1 + 3 * 50
    assert {(root / path).stat().st_mode & 0o7777 for path in made} == {0o755}


def test_all_tars_are_started_before_there_is_anything_for_them(root: Path) -> None:
    cut = each_alone(tar_of((member(f"file{n}"), b"") for n in range(8)))
    started = Awaited()

    def late() -> Iterator[Chunk]:
        assert started.enough.wait(SLACK)
        yield from cut.chunks

    extract(late(), root, started, size=cut.size, cuts=replace(cut.cuts, lanes=3))
    assert {path.name for path in walk(root)} == {f"file{n}" for n in range(8)}


def test_a_tar_that_nothing_is_left_for_ends_well(root: Path, nothing_left: None) -> None:
    cut = each_alone(tar_of([(member("file", b"content"), b"content")]))
    extract(iter(cut.chunks), root, feeding, size=cut.size, cuts=replace(cut.cuts, lanes=4))
    assert (root / "file").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["there/new/file", "climbs/new/file", "../outside/new/file"])
def test_no_directory_is_made_outside(name: str, memory: Path) -> None:
    home = Path(tempfile.mkdtemp(dir=memory))
    (home / "root").mkdir()
    (home / "outside").mkdir()
    (home / "root/there").symlink_to(home / "outside")
    (home / "root/climbs").symlink_to("../outside")
    archive = tar_of([(member(name), b""), (member("inside/file"), b"")])
    assert b"".join(with_parents(iter([archive]), home / "root")) == archive
    assert list((home / "outside").iterdir()) == []
    assert (home / "root/inside").is_dir()


@given(archive=trees(), cuts=st.lists(st.integers(0, 1 << 17), max_size=9))
@settings(max_examples=40, deadline=None)
def test_names_are_read_as_tar_reads_them(archive: bytes, cuts: list[int]) -> None:
    found: list[bytes] = []
    names = Names(found.append)
    edges = [0, *sorted(cuts), len(archive)]
    for begin, end in pairwise(edges):
        names.feed(archive[begin:end])
    with tarfile.open(fileobj=BytesIO(archive)) as opened:
        assert [name.decode() for name in found] == opened.getnames()


@pytest.mark.parametrize("options", ["--format=gnu", "--format=pax", "--format=oldgnu", "--posix"])
def test_names_of_sparse_and_long_members_are_read(options: str, tmp_path: Path) -> None:
    deep = tmp_path / "tree" / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    for name in ("sparse", "s" * 120):
        with (deep / name).open("wb") as file:
            for block in range(60):  # more holes than the first block of an old map has room for
                file.seek(block << 17)
                file.write(b"x" * 5_000)
    (deep / "last").write_bytes(b"1")
    archive = gnu_tar(tmp_path / "tree", "--sparse", options)
    found: list[bytes] = []
    Names(found.append).feed(archive)
    with tarfile.open(fileobj=BytesIO(archive)) as opened:
        assert [name.decode() for name in found] == opened.getnames()


@pytest.mark.parametrize(
    "archive",
    [b"no archive" * 999, tar_of([(member("a" * 200), b"")])[:1500], b"\xff" * 2048],
    ids=["garbage", "truncated", "ones"],
)
def test_the_reader_of_names_leaves_judging_to_tar(archive: bytes) -> None:
    found: list[bytes] = []
    Names(found.append).feed(archive)
    assert len(found) <= len(archive) // 512


# --- what lies there already ---


class Counted:
    """The feeding port, counting the programs it starts."""

    def __init__(self) -> None:
        self.started = 0

    def __call__(
        self,
        *argv: str | os.PathLike[str],
        pipe_size: int = 1 << 20,
        patience: float | None = None,
    ) -> AbstractContextManager[IO[bytes]]:
        self.started += 1
        return feeding(*argv, pipe_size=pipe_size, patience=patience)


def plain(count: int, size: int = 3_000) -> bytes:
    """Return an archive of files that does not fit into a chunk."""
    names = [f"d{number % 7}/file{number}" for number in range(count)]
    return tar_of((member(name, bytes(size)), bytes(size)) for name in names)


def test_runs_are_spread_and_the_tail_goes_to_one_more(root: Path) -> None:
    counted, cut = Counted(), tail_last(plain(2_000), chunk=60_000)
    extract(iter(cut.chunks), root, counted, size=cut.size, cuts=cut.cuts)
    assert counted.started == 3 + 1
    assert len(list(root.glob("*/*"))) == 2_000


def test_on_one_core_one_tar_does_it_all(root: Path) -> None:
    counted, cut = Counted(), tail_last(plain(50), chunk=9_000, lanes=1)
    extract(iter(cut.chunks), root, counted, size=cut.size, cuts=cut.cuts)
    assert counted.started == 1
    assert len(list(root.glob("*/*"))) == 50


@pytest.fixture
def boot(root: Path) -> Iterator[Path]:
    """Have /boot in a file system of its own."""
    place = root / "boot"
    place.mkdir()
    run("mount", "-t", "tmpfs", "boot", place)
    try:
        yield place
    finally:
        run("umount", place)


def test_links_of_the_tail_between_two_volumes_become_copies(root: Path, boot: Path) -> None:
    archive = tar_of(
        [
            (member("boot/vmlinuz", b"k" * 9000), b"k" * 9000),
            (member("usr/lib/vmlinuz", type=HARDLINK, linkname="boot/vmlinuz"), b""),
            *((member(f"usr/{n}", b"x" * 900), b"x" * 900) for n in range(20)),
            (member("usr/same", type=HARDLINK, linkname="usr/1"), b""),
        ]
    )
    cut = tail_last(archive, chunk=4_000)
    apart = apart_of([("/boot", "/usr/lib")], root)
    extract(iter(cut.chunks), root, feeding, size=cut.size, cuts=cut.cuts, apart=apart)
    assert (root / "usr/lib/vmlinuz").read_bytes() == (boot / "vmlinuz").read_bytes() == b"k" * 9000
    assert (root / "usr/same").samefile(root / "usr/1")


@pytest.mark.parametrize("there", ["file", "link"])
def test_over_a_tree_one_tar_does_it_all(root: Path, there: str) -> None:
    (root / "usr/lib").mkdir(parents=True)
    if there == "link":
        (root / "lib").symlink_to("usr/lib")
    else:
        (root / "usr/lib/file").touch()
        (root / "lib").mkdir()
    counted, cut = Counted(), tail_last(tar_of([(member("lib/new", b"new"), b"new")]), chunk=600)
    extract(iter(cut.chunks), root, counted, size=cut.size, cuts=cut.cuts)
    assert counted.started == 1
    assert (root / "lib/new").read_bytes() == b"new"
    assert (root / "lib").is_symlink() == (there == "link")


def test_no_file_inherits_an_acl_of_a_mount_point(root: Path) -> None:
    (root / "d0").mkdir()
    run("setfacl", "-d", "-m", "u:99:rwx", root / "d0")
    lay(tail_last(plain(300), chunk=20_000), root)
    assert os.listxattr(root / "d0") == ["system.posix_acl_default"]
    assert not any(os.listxattr(path) for path in root.glob("d0/*"))


# --- containment, with an order that no packer would make ---


@pytest.mark.parametrize("attack", hostile(Path("/outside")))
def test_no_member_leaves_the_tree(attack: str, memory: Path, nothing_left: None) -> None:
    home = Path(tempfile.mkdtemp(dir=memory))
    outside, root = home / "outside", home / "root"
    outside.mkdir(mode=0o755)
    (outside / "secret").write_text("untouched")
    (outside / "secret").chmod(0o600)
    root.mkdir()
    before = fingerprint(outside)
    cut = each_alone(tar_of((header, b"") for header in hostile(outside)[attack]))
    outcome(lambda: lay(cut, root))
    assert fingerprint(outside) == before


# --- failures ---


class Replaced:
    """The feeding port; the program with a number in `scripts` is a shell script instead."""

    def __init__(self, scripts: dict[int, str]) -> None:
        self._scripts, self._numbers, self._lock = scripts, iter(range(99)), threading.Lock()

    def __call__(
        self,
        *argv: str | os.PathLike[str],
        pipe_size: int = 1 << 20,
        patience: float | None = None,
    ) -> AbstractContextManager[IO[bytes]]:
        with self._lock:
            script = self._scripts.get(next(self._numbers))
        argv = argv if script is None else ("sh", "-c", script)
        return feeding(*argv, pipe_size=pipe_size, patience=patience)


class Awaited:
    """The feeding port; `enough` is set when four programs have been started."""

    def __init__(self) -> None:
        self.enough, self._numbers = threading.Event(), iter(range(1, 99))

    def __call__(
        self,
        *argv: str | os.PathLike[str],
        pipe_size: int = 1 << 20,
        patience: float | None = None,
    ) -> AbstractContextManager[IO[bytes]]:
        if next(self._numbers) == 4:
            self.enough.set()
        return feeding(*argv, pipe_size=pipe_size, patience=patience)


BIG = 400
"""Chunks that no pipe and no queue can hold."""


def many(taken: list[int]) -> Iterator[bytes]:
    """Yield chunks that are one member each, and note how many were taken."""
    for number in range(BIG):
        taken.append(number)
        content = bytes(PIECE)
        whole = tar_of([(member(f"file{number}", content), content)])
        yield whole[: 512 + PIECE]
    yield bytes(1024)


MANY = Cuts((True,) * BIG, BIG, 3)
MANY_SIZE = BIG * (512 + PIECE) + 1024


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 0.1; echo disk on fire >&2; exit 3", "tar exited with status 3 after .*on fire"),
        ("head -c 100000 >/dev/null; exit 0", "tar ended before it had read everything after"),
        ("kill -9 $$", "tar exited with status -9 after"),
    ],
    ids=["fails", "stops early", "killed"],
)
def test_one_tar_that_fails_stops_the_others_and_is_quoted(
    script: str, words: str, root: Path, nothing_left: None
) -> None:
    taken: list[int] = []
    # The first one is for the tail, which never comes.
    port = Replaced({0: "exec cat >/dev/null", 1: script, 2: "exec sleep 60"})
    began = time.monotonic()
    with pytest.raises(ImageError, match=words):
        extract(many(taken), root, port, size=MANY_SIZE, cuts=MANY)
    assert time.monotonic() - began < 10
    assert len(taken) < BIG


def test_what_is_no_archive_is_a_named_failure(root: Path, nothing_left: None) -> None:
    chunks = [b"this is no archive " * 100] * 6
    cuts = Cuts((True,) * 5, 5, 3)
    with pytest.raises(ImageError, match=r"tar exited with status 2 after \d+ bytes: .*tar"):
        extract(iter(chunks), root, feeding, size=6 * 1900, cuts=cuts)


def test_a_stream_that_fails_stops_all_and_keeps_its_own_message(
    root: Path, nothing_left: None
) -> None:
    def broken() -> Iterator[bytes]:
        yield from list(many([]))[:9]
        raise ImageError("chunk 9: no mirror has it")

    with pytest.raises(ImageError, match=r"^chunk 9: no mirror has it$") as caught:
        extract(broken(), root, feeding, size=MANY_SIZE, cuts=MANY)
    assert not [place for place in opened() if place.is_relative_to(root)], caught.value


def opened() -> list[Path]:
    """Return what this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # it was that of this directory
            found.append(descriptor.readlink())
    return found


def test_a_full_volume_is_named(root: Path, nothing_left: None) -> None:
    run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", root)
    try:
        with pytest.raises(ImageError, match=f"{root} is full: tar exited with status 2"):
            lay(tail_last(plain(40, 300_000), chunk=700_000), root)
    finally:
        run("umount", root)


@pytest.mark.parametrize("chunk", [PIECE // 2, 9 * PIECE])
def test_a_tar_that_reads_nothing_ends_the_wait(chunk: int, nothing_left: None) -> None:
    def asleep() -> AbstractContextManager[IO[bytes]]:
        return feeding("sleep", "60")

    began = time.monotonic()
    with (  # noqa: PT012  (leaving is what raises)
        pytest.raises(ImageError, match=r"tar has read nothing for 0\.4 s"),
        Shards(asleep, 2, patience=0.4) as shards,
    ):
        for _ in range(40):
            shards.put(bytes(chunk), head=True)
    assert 0.4 <= time.monotonic() - began < 5


def test_one_tar_alone_that_reads_nothing_ends_the_wait_too(nothing_left: None) -> None:
    with (
        pytest.raises(ImageError, match=r"tar has read nothing for 0\.3 s"),
        feeding("sleep", "60") as pipe,
    ):
        feed(pipe, bytes(9 << 20), patience=0.3)


def test_a_tar_that_does_not_end_is_killed(nothing_left: None) -> None:
    with (
        pytest.raises(CommandError, match=r"did not finish in 0\.3 s"),
        feeding("sh", "-c", "cat >/dev/null; exec sleep 60", patience=0.3) as pipe,
    ):
        feed(pipe, bytes(100))


# --- feeding ---


def test_a_chunk_may_be_used_again_as_soon_as_it_was_put(root: Path) -> None:
    buffer = bytearray(200_000)

    def lent(chunks: tuple[bytes, ...]) -> Iterator[Chunk]:
        for chunk in chunks:
            buffer[: len(chunk)] = chunk
            with memoryview(buffer) as view:
                yield view[: len(chunk)]
            buffer[:] = b"\xff" * len(buffer)

    contents = {f"d/file{n}": random.Random(n).randbytes(30_000) for n in range(200)}
    archive = tar_of((member(name, body), body) for name, body in contents.items())
    cut = tail_last(archive, chunk=200_000)
    extract(lent(cut.chunks), root, feeding, size=cut.size, cuts=cut.cuts)
    assert {str(p.relative_to(root)): p.read_bytes() for p in root.glob("d/*")} == contents


def test_a_run_stays_together_however_it_is_cut(root: Path) -> None:
    contents = {f"file{n}": random.Random(n).randbytes(n * 100_000) for n in range(12)}
    archive = tar_of((member(name, body), body) for name, body in contents.items())
    cut = tail_last(archive, chunk=70_000)
    assert cut.cuts.heads.count(False) > 50
    lay(cut, root)
    assert {path.name: path.read_bytes() for path in root.iterdir()} == contents


def test_progress_counts_what_the_tars_were_given(root: Path) -> None:
    cut = tail_last(plain(2_000), chunk=60_000)
    seen: list[tuple[int, int]] = []
    extract(
        iter(cut.chunks),
        root,
        feeding,
        size=cut.size,
        cuts=cut.cuts,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (cut.size, cut.size)
    assert len({done for done, _ in seen}) > 5


CONSUMER = """
import sys
from agent.adapters.command import feeding
from agent.payload.shards import Shards
chunk = memoryview(bytes(4 << 20))
with Shards(lambda: feeding("sh", "-c", "cat >/dev/null"), 4) as shards:
    for number in range(int(sys.argv[1])):
        shards.put(chunk, head=number % 5 == 0)
status = open("/proc/self/status").read()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_image() -> None:
    small, large = (
        int(subprocess.check_output([sys.executable, "-c", CONSUMER, str(count)]))
        for count in (25, 250)
    )
    assert large < 1.1 * small
    assert large < 100 << 10
