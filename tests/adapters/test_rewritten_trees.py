"""A rewritten archive unpacks to the tree of the original, by plain GNU tar, whatever lies in it.

Needs root, as unpacking a root file system does: owners, device nodes, ACLs.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, event, given, settings
from hypothesis import strategies as st

from agent.payload.frames import Piece
from agent.payload.manifest import CHUNK_SIZES
from agent.payload.rewrite import Rewriting
from agent.payload.tar import TarError
from tests.unit.payload.images import member, tar_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="lays files of all owners: needs root")

SMALL = CHUNK_SIZES.start
EXTRACT = ("tar", "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")
CREATE = ("tar", "-c", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sparse")
OURS = ("--delay-directory-restore", "--keep-directory-symlink", "--ignore-zeros")
# Without shrinking: each example unpacks three trees, and the archive says enough.
COMMON = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def rewritten(archive: bytes, work: Path) -> tuple[list[Piece], Rewriting]:
    """Rewrite an archive that is laid over nothing; `reason` is set if it must not be."""
    with Rewriting(work, SMALL, move=True, overlay=False) as rewriting:
        return list(rewriting.pieces([archive])), rewriting


def lay(archive: bytes, root: Path, *options: str) -> bool:
    root.mkdir(exist_ok=True)
    command = [*EXTRACT, *options, "-C", str(root)]
    return subprocess.run(command, input=archive, capture_output=True).returncode == 0


def look(root: Path, *, dates: dict[str, int | None] | None = None) -> dict[str, Any]:
    """Return everything that can be told of a tree, with `dates` for those of some paths."""
    found: dict[str, Any] = {}
    links: dict[int, list[str]] = {}
    for path in sorted([root, *root.rglob("*")]):
        name = str(path.relative_to(root))
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = (status.st_size, status.st_blocks, sha256(path.read_bytes()).hexdigest())
        elif stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        if not stat.S_ISDIR(status.st_mode):
            links.setdefault(status.st_ino, []).append(name)
        names = os.listxattr(path, follow_symlinks=False)
        found[name] = (
            status.st_mode,
            (status.st_uid, status.st_gid),
            (dates or {}).get(name, status.st_mtime_ns),
            status.st_rdev,
            content,
            {key: os.getxattr(path, key, follow_symlinks=False) for key in sorted(names)},
        )
    return found | {"hard links": sorted(links.values())}


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)
ATTRIBUTES = st.fixed_dictionaries(
    {
        "mode": st.sampled_from([0o644, 0o600, 0o4755, 0o2755, 0o1777, 0o500, 0]),
        "owner": st.sampled_from([(0, 0), (1000, 1001), (65534, 4)]),
        "mtime": st.integers(0, 2**32 * 10**9),
        "xattr": st.booleans(),
        "acl": st.sampled_from([(), ("-m", "u:4711:rwx"), ("-d", "-m", "g:4712:rx")]),
    }
)
ENTRIES = st.dictionaries(
    NAMES,
    st.tuples(
        st.sampled_from(["file", "directory", "symlink", "link", "fifo", "device", "sparse"]),
        ATTRIBUTES,
    ),
    max_size=14,
)


def plant(tree: Path, entries: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """Make a tree of the entries; one that lies below what is no directory is left out."""
    tree.mkdir()
    files: list[Path] = []
    for name, (kind, attributes) in sorted(entries.items()):
        path = tree / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if kind == "directory":
            path.mkdir(exist_ok=True)
        elif kind == "symlink":
            path.symlink_to("../x")
        elif kind == "link" and files:
            path.hardlink_to(files[len(name) % len(files)])
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 9))
        else:
            path.write_bytes(name.encode() * attributes["mtime"].bit_length() * 90)
            if kind == "sparse":
                os.truncate(path, 200_000)
            files.append(path)
    for path in sorted(tree.rglob("*"), reverse=True):
        entry = entries.get(str(path.relative_to(tree)))
        if entry:
            adorn(path, entry[1])


def adorn(path: Path, attributes: dict[str, Any]) -> None:
    os.lchown(path, *attributes["owner"])
    if not path.is_symlink():
        path.chmod(attributes["mode"])
        acl = attributes["acl"]
        if path.is_dir() or (path.is_file() and "-d" not in acl):
            if acl:
                subprocess.run(["setfacl", *acl, str(path)], check=True)
            if attributes["xattr"]:
                os.setxattr(path, "user.note", str(path.name).encode())
    os.utime(path, ns=(1, attributes["mtime"]), follow_symlinks=False)


def gnu_tar(tree: Path, names: list[str], form: str) -> bytes:
    command = [*CREATE, f"--format={form}", "--no-recursion", "-C", str(tree), "--null", "-T", "-"]
    listed = "\0".join(names).encode()
    return subprocess.run(command, input=listed, capture_output=True, check=True).stdout


def mtime_of(path: Path, form: str) -> int:
    """Return the time in the archive: GNU tar's own format has whole seconds."""
    time = path.lstat().st_mtime_ns
    return time if form == "posix" else time // 10**9 * 10**9


@settings(COMMON, max_examples=25)
@given(ENTRIES, st.randoms(use_true_random=False), st.sampled_from(["posix", "gnu"]), st.data())
def test_a_tree_in_any_order_is_the_same_tree_after_it_was_rewritten(
    entries: dict[str, tuple[str, dict[str, Any]]], order: Any, form: str, data: st.DataObject
) -> None:
    with scratch() as tmp:
        plant(tmp / "tree", entries)
        names = [str(path.relative_to(tmp / "tree")) for path in (tmp / "tree").rglob("*")]
        directories = [name for name in names if (tmp / "tree" / name).is_dir()]
        left_out = (
            data.draw(st.sets(st.sampled_from(directories), max_size=1)) if directories else set()
        )
        members = [".", *(name for name in sorted(names) if name not in left_out)]
        if data.draw(st.booleans()):
            order.shuffle(members)
        # GNU tar's own format has no ACLs or attributes, which is why both are tried.
        if form == "gnu":
            form_of_tar = tuple(o for o in CREATE if not o.startswith(("--xattrs", "--acls")))
            command = [*form_of_tar, "--format=gnu", "--no-recursion", "-C", str(tmp / "tree")]
            archive = subprocess.run(
                [*command, "--", *members], capture_output=True, check=True
            ).stdout
        else:
            archive = gnu_tar(tmp / "tree", members, form)
        pieces, rewriting = rewritten(archive, tmp)
        assume(not rewriting.reason)
        assert rewriting.tail is not None
        # What has no entry gets the time of the day, and GNU tar then forgets that of the directory
        # above it when the entries come in order: the tree that was archived knows better.
        unknown = dict.fromkeys(left_out)
        known: dict[str, int | None] = {
            name: mtime_of(tmp / "tree" / name, form) for name in [".", *directories]
        }
        assert lay(archive, tmp / "original", "--delay-directory-restore")
        expected = look(tmp / "original", dates=known | unknown)
        # In one piece, as plain tools read it.
        again = b"".join(bytes(piece.content) for piece in pieces)
        assert len(again) == len(archive)
        options = data.draw(st.sampled_from([(), OURS]))
        assert lay(again, tmp / "rewritten", *options)
        assert look(tmp / "rewritten", dates=unknown) == expected
        # Each run that begins at a member by a tar of its own, in any order, the tail last.
        runs: list[bytes] = []
        for piece in pieces[: rewriting.tail]:
            if piece.continues:
                runs[-1] += piece.content
            else:
                runs.append(bytes(piece.content))
        order.shuffle(runs)
        runs.append(b"".join(bytes(piece.content) for piece in pieces[rewriting.tail :]))
        assert all(lay(run, tmp / "shards") for run in runs)
        assert look(tmp / "shards", dates=unknown) == expected


# Files, links, symbolic links and directories whose names are each other's, or lie below them.
CROOKED = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["a", "./a", "a/b", "a//b", "b", "b/c", "/b", "c", "a/b/c", "d/a"]),
            st.sampled_from("0012"),
            st.sampled_from(["a", "b", "a/b", "b/c", "d"]),
            st.just(0o644),
        ),
        st.tuples(
            st.sampled_from(["a", "a/", "a/b", "b/", "c", "d", "."]),
            st.just("5"),
            st.just(""),
            st.sampled_from([0o700, 0o2775]),
        ),
    ),
    min_size=2,
    max_size=5,
)


def crooked(members: list[tuple[str, str, str, int]]) -> bytes:
    out = []
    for number, (name, kind, link, mode) in enumerate(members):
        content = name.encode() * (number + 1) if kind == "0" else b""
        header = member(name, content, type=kind.encode(), mode=mode, uid=number, mtime=number + 5)
        if kind in "12":
            header.linkname = link
        out.append((header, content))
    return tar_of(out, tarfile.GNU_FORMAT)


@settings(COMMON, max_examples=60)
@given(CROOKED)
def test_members_that_meet_each_other_are_moved_only_if_that_changes_nothing(
    members: list[tuple[str, str, str, int]],
) -> None:
    """Names twice, below links and files, links before what they link to: all in one directory."""
    archive = crooked(members)
    with scratch() as tmp:
        try:
            pieces, rewriting = rewritten(archive, tmp)
        except TarError:
            event("refused")
            return
        again = b"".join(bytes(piece.content) for piece in pieces)
        if rewriting.reason:
            event("left as it came")
            return
        # What plain tar cannot unpack is nobody's tree.
        assume(lay(archive, tmp / "original", "--delay-directory-restore"))
        event("moved")
        assert lay(again, tmp / "rewritten", "--delay-directory-restore")
        directories = [name for name, _, _, mode in members if mode != 0o644]
        unknown = dict.fromkeys([".", "a", "a/b", "b", "d", *directories])
        originally = look(tmp / "original", dates=unknown)
        assert look(tmp / "rewritten", dates=unknown) == originally
