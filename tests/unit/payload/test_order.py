"""Which archives may have their members moved, and what is said of those that may not."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from agent.payload.rewrite import Rewriting
from tests.unit.payload.images import SMALL, member, tar_of

Row = tuple[str, str] | tuple[str, str, str]


def archive(*rows: Row, format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive of rows of name, type as tar writes it, and what it links to."""
    members = []
    for name, kind, *link in rows:
        content = b"x" if kind == "0" else b""
        header = member(name, content, type=kind.encode())
        header.linkname = "".join(link)
        members.append((header, content))
    return tar_of(members, format)


def reason(raw: bytes, tmp_path: Path, *, overlay: bool | None = False) -> str:
    with Rewriting(tmp_path, SMALL, move=True, overlay=overlay) as rewriting:
        list(rewriting.pieces([raw]))
    assert (rewriting.tail is None) == bool(rewriting.reason)
    return rewriting.reason


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("a", "0"), ("b", "0")],
        [("d/x", "0"), ("d", "5"), (".", "5")],
        [("d", "5"), ("d/x", "0"), ("./d/", "5")],
        [("a", "0"), ("b", "1", "a"), ("c", "1", "b"), ("d", "1", "./a")],
        [("lib", "2", "usr/lib"), ("usr/lib/x", "0")],
        [("b", "1", "in-a-lower-layer")],
        [("a", "0"), ("a-b", "0"), ("ab/c", "0")],
    ],
)
def test_members_that_do_not_meet_may_be_moved(tmp_path: Path, rows: list[Row]) -> None:
    assert reason(archive(*rows), tmp_path) == ""


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", "0"), ("./a", "0")], "a: is there twice"),
        ([("d", "5"), ("d", "2", "e")], "d: is there twice"),
        ([("d", "2", "e"), ("d/", "5")], "d: is there twice"),
        ([("l", "2", "d"), ("l/x", "0")], "l/x: lies below what is no directory"),
        ([("l", "2", "d"), ("l/x/y", "5")], "l/x/y: lies below what is no directory"),
        ([("l/x/y", "0"), ("l", "2", "d")], "l: is no directory, and comes after what lies below"),
        ([("b", "1", "a"), ("a", "0")], "a: comes after a hard link to it"),
        (
            [("l", "2", "d"), ("d/x", "0"), ("y", "1", "l/x")],
            "y: lies below what is no directory",
        ),
        ([("d/x", "0"), ("y", "1", "l/x"), ("l", "2", "d")], "l: is no directory, and comes after"),
    ],
)
def test_members_that_meet_stay_in_their_order(
    tmp_path: Path, rows: list[Row], expected: str
) -> None:
    assert reason(archive(*rows), tmp_path).startswith(expected)


def test_names_that_are_no_text_are_told_apart(tmp_path: Path) -> None:
    raw = archive(("caf\udce8", "0"), ("caf\udce9", "0"), format=tarfile.GNU_FORMAT)
    assert reason(raw, tmp_path) == ""


@pytest.mark.parametrize("acl", [{}, {"SCHILY.acl.default": "user::rwx"}])
def test_a_directory_without_an_entry_takes_what_is_handed_on_from_above(
    tmp_path: Path, acl: dict[str, str]
) -> None:
    above = member("d", type=tarfile.DIRTYPE, mode=0o755 if acl else 0o2755)
    above.pax_headers = acl
    below = (member("d/e/x", b"x"), b"x")
    expected = "d/e: has no entry, and takes its group or ACL from above"
    assert reason(tar_of([(above, b""), below]), tmp_path) == expected
    named = (member("d/e", type=tarfile.DIRTYPE), b"")
    assert reason(tar_of([(above, b""), below, named]), tmp_path) == ""
    above.mode, above.pax_headers = 0o755, {}
    assert reason(tar_of([(above, b""), below]), tmp_path) == ""


def test_a_global_header_speaks_for_members_that_must_not_leave_it(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}
    ) as made:
        made.addfile(member("a", b"x"), io.BytesIO(b"x"))
    assert reason(out.getvalue(), tmp_path).startswith("has a global header")


def test_what_has_no_operating_system_is_an_overlay_unless_said_otherwise(tmp_path: Path) -> None:
    overlay, system = archive(("etc/motd", "0")), archive(("etc/os-release", "0"))
    assert reason(overlay, tmp_path, overlay=None).startswith("is an overlay")
    assert reason(overlay, tmp_path, overlay=False) == ""
    system = tar_of([(member("etc/os-release", b"ID=x\n"), b"ID=x\n")])
    assert reason(system, tmp_path, overlay=None) == ""
    assert reason(system, tmp_path, overlay=True).startswith("is an overlay")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("d", "5"), ("d/x", "0")], True),
        ([("d/x", "0"), ("d", "5")], True),
        ([("x", "0")], True),
        ([("./x", "0"), (".", "5")], True),
        ([("d/x", "0")], None),
        ([("d/e", "5")], None),
        ([("e", "5"), ("e/x", "1", "d/x")], None),
        ([("x", "0"), ("x", "0")], None),
    ],
)
def test_it_is_known_whether_each_parent_has_a_member(
    tmp_path: Path, rows: list[Row], expected: bool | None
) -> None:
    with Rewriting(tmp_path, SMALL, move=True, overlay=False) as rewriting:
        list(rewriting.pieces([archive(*rows)]))
    assert rewriting.tree.parents is expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("SCHILY.acl.access", ("acls",)),
        ("SCHILY.acl.default", ("acls",)),
        ("RHT.security.selinux", ("selinux",)),
        ("SCHILY.xattr.user.note", ("xattrs",)),
        ("SCHILY.xattr.security.capability", ("xattrs",)),
        ("comment", ()),
    ],
)
@pytest.mark.parametrize("move", [True, False])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_it_is_known_which_attributes_members_have(
    tmp_path: Path, record: str, expected: tuple[str, ...], move: bool, kind: bytes
) -> None:
    header = member("second", b"", type=kind, pax_headers={record: "value"})
    raw = tar_of([(member("first"), b""), (header, b"")])
    with Rewriting(tmp_path, SMALL, move=move, overlay=False) as rewriting:
        list(rewriting.pieces([raw]))
    assert rewriting.tree.attributes == expected
