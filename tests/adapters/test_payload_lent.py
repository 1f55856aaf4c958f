"""Chunks that are lent to several tars: given back, all of them, and none before it was read."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from agent.adapters.command import feeding, run
from agent.errors import ImageError
from agent.payload.direct import pages
from agent.payload.lent import Buffers
from agent.payload.shards import Chunk
from agent.payload.tar import Attribute
from agent.payload.tree import extract
from tests.adapters.tails import Cut, tail_last
from tests.adapters.test_payload_shards import Replaced, lay_alone, plain
from tests.adapters.test_payload_shards import memory as memory  # fixtures
from tests.adapters.test_payload_shards import nothing_left as nothing_left
from tests.adapters.test_payload_shards import root as root
from tests.adapters.test_payload_tree import gnu_tar
from tests.adapters.test_payload_tree import original as original  # a fixture
from tests.adapters.trees import snapshot
from tests.unit.payload.images import member, tar_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="lays files of all owners: needs root")

NOISE = b"\xee"


class Lender:
    """Lends chunks, and spoils each buffer at the moment in which it comes back."""

    def __init__(self, cut: Cut, count: int = 3) -> None:
        self._cut, self._buffers = cut, Buffers()
        self._all = [pages(max(map(len, cut.chunks))) for _ in range(count)]
        self._buffers.own(self._all)
        self._lock = threading.Lock()
        self.out = 0

    def chunks(self) -> Iterator[Chunk]:
        for chunk in self._cut.chunks:
            buffer = self._buffers.take(wait=True)
            assert buffer is not None
            buffer[: len(chunk)] = chunk
            with self._lock:
                self.out += 1
            yield memoryview(buffer)[: len(chunk)]

    def back(self, view: memoryview) -> None:
        view[:] = NOISE * len(view)
        with self._lock:
            self.out -= 1
        self._buffers.back(view)


@pytest.mark.parametrize("chunk", [9_000, 300_000, 3_000_000])
def test_what_was_lent_arrives_and_all_of_it_comes_back(
    memory: Path, root: Path, chunk: int, nothing_left: None
) -> None:
    archive = plain(300, 30_011)
    alone = Path(tempfile.mkdtemp(dir=memory))
    lay_alone(archive, alone)
    cut = tail_last(archive, chunk=chunk)
    lender = Lender(cut)
    extract(lender.chunks(), root, feeding, size=cut.size, cuts=cut.cuts, back=lender.back)
    assert lender.out == 0
    assert contents(root) == contents(alone)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/*")}


def test_everything_comes_back_when_a_tar_fails(root: Path, nothing_left: None) -> None:
    cut = tail_last(plain(400, 20_000), chunk=60_000)
    lender = Lender(cut, 8)
    port = Replaced({1: "head -c 100000 >/dev/null; echo broken >&2; exit 3", 2: "exec sleep 60"})
    with pytest.raises(ImageError, match="tar exited with status 3"):
        extract(lender.chunks(), root, port, size=cut.size, cuts=cut.cuts, back=lender.back)
    assert lender.out == 0


# --- what tar is asked to do ---


class Noted:
    """The feeding port, which keeps the command lines."""

    def __init__(self) -> None:
        self.argvs = list[tuple[str, ...]]()

    def __call__(
        self,
        *argv: str | os.PathLike[str],
        pipe_size: int = 1 << 20,
        patience: float | None = None,
    ) -> AbstractContextManager[IO[bytes]]:
        self.argvs.append(tuple(map(str, argv)))
        return feeding(*argv, pipe_size=pipe_size, patience=patience)

    def options(self) -> set[str]:
        asked = {"--acls", "--selinux", "--xattrs", "--xattrs-include=*"}
        (found,) = {frozenset(asked & set(argv)) for argv in self.argvs}
        return set(found)


ALL = {"--acls", "--selinux", "--xattrs", "--xattrs-include=*"}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (None, ALL),
        ([], set()),
        (["acls"], {"--acls"}),
        (["selinux", "xattrs"], {"--selinux", "--xattrs", "--xattrs-include=*"}),
    ],
)
def test_tar_sets_what_some_member_has(
    root: Path, attributes: list[Attribute] | None, expected: set[str]
) -> None:
    cut, noted = tail_last(plain(20), chunk=9_000), Noted()
    known = None if attributes is None else frozenset(attributes)
    (root / "d0").mkdir()  # a mount point
    cuts = replace(cut.cuts, attributes=known)
    extract(iter(cut.chunks), root, noted, size=cut.size, cuts=cuts)
    assert noted.options() == expected


@pytest.mark.parametrize("why", ["order", "something there", "an ACL to inherit"])
def test_tar_sets_everything_where_something_could_be_inherited(root: Path, why: str) -> None:
    cut, noted = tail_last(plain(20), chunk=9_000), Noted()
    cuts = None if why == "order" else replace(cut.cuts, attributes=frozenset())
    if why == "something there":
        (root / "file").touch()
    elif why == "an ACL to inherit":
        (root / "d0").mkdir()
        run("setfacl", "-d", "-m", "u:99:rwx", root / "d0")
    extract(iter(cut.chunks), root, noted, size=cut.size, cuts=cuts)
    assert noted.options() == ALL
    assert not any(os.listxattr(path) for path in root.glob("d0/*"))


def test_with_all_that_it_has_an_archive_arrives_as_from_one_tar(
    original: Path, memory: Path, root: Path
) -> None:
    archive = gnu_tar(original, "--xattrs", "--xattrs-include=*", "--acls", "--sparse")
    alone = Path(tempfile.mkdtemp(dir=memory))
    lay_alone(archive, alone)
    cut = tail_last(archive, chunk=2_000)
    tail = cut.chunks[cut.cuts.tail :]
    cuts = replace(cut.cuts, attributes=frozenset(["acls", "xattrs"]), ahead=lambda: tail)
    lender = Lender(cut)
    extract(lender.chunks(), root, feeding, size=cut.size, cuts=cuts, back=lender.back)
    assert snapshot(root) == snapshot(alone)


# --- directories from the tail ---


def test_directories_are_made_from_the_tail_before_any_tar_reads(
    root: Path, tmp_path: Path
) -> None:
    deep = "d" * 90 + "/" + "e" * 90
    folders = [(member(name, type=b"5"), b"") for name in (".", "./a", "a/b/", deep[:90], deep)]
    files = [(member(name), b"") for name in ("a/b/x", "a/y", f"{deep}/z", "w")]
    cut = tail_last(tar_of([*folders, *files]), chunk=600)
    looking = 'head -c 512 >/dev/null; cd "$1" && find . -type d >"$2/$$"; exec cat >/dev/null'

    def instead(
        *argv: str | os.PathLike[str], pipe_size: int = 1 << 20, patience: float | None = None
    ) -> AbstractContextManager[IO[bytes]]:
        argv = ("sh", "-c", looking, "sh", root, tmp_path)
        return feeding(*argv, pipe_size=pipe_size, patience=patience)

    cuts = replace(cut.cuts, ahead=lambda: cut.chunks[cut.cuts.tail :])
    extract(iter(cut.chunks), root, instead, size=cut.size, cuts=cuts)
    found = [{*file.read_text().splitlines()} for file in tmp_path.iterdir()]
    assert len(found) == cuts.lanes + 1
    for directories in found:
        assert {"./a", "./a/b", f"./{deep[:90]}", f"./{deep}"} <= directories


@pytest.mark.parametrize("name", ["../outside/new", "/new", "a/../../outside/new"])
def test_no_directory_of_the_tail_is_made_outside(memory: Path, name: str) -> None:
    home = Path(tempfile.mkdtemp(dir=memory))
    (home / "root").mkdir()
    (home / "outside").mkdir()
    cut = tail_last(tar_of([(member("x"), b""), (member(name, type=b"5"), b"")]), chunk=600)
    cuts = replace(cut.cuts, ahead=lambda: cut.chunks[cut.cuts.tail :])
    with suppress(ImageError):  # tar says what it thinks of such names
        extract(iter(cut.chunks), home / "root", feeding, size=cut.size, cuts=cuts)
    assert list((home / "outside").iterdir()) == []
    assert not Path("/new").exists()
