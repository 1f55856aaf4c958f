"""Layers laid over each other: what is left is what a container's file system would hold."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlanError
from agent.payload.sources.layers import merged
from tests.unit.payload.images import member, tar_of

Members = Sequence[tuple[tarfile.TarInfo, bytes]]


@dataclass
class Stored:
    """A layer in memory that counts how often it was opened."""

    archive: bytes
    name: str = "layer"
    opened: int = 0

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        self.opened += 1
        yield io.BytesIO(self.archive)


def file(path: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(path, content, **fields), content


def directory(path: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(path, type=tarfile.DIRTYPE, mode=mode), b""


def symlink(path: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(path, type=tarfile.SYMTYPE, linkname=target), b""


def hard(path: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(path, type=tarfile.LNKTYPE, linkname=target), b""


def laid(*layers: Members) -> dict[str, str]:
    """Return what is left: path to what it is, in the order of the archive."""
    archive = b"".join(merged([Stored(tar_of(members)) for members in layers]))
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for one in opened:
            assert one.name not in found, f"{one.name} is there twice"
            found[one.name] = _told(opened, one)
    return found


def _told(archive: tarfile.TarFile, one: tarfile.TarInfo) -> str:
    if one.isdir():
        return f"directory {one.mode:o}"
    if one.islnk():
        return f"hard link to {one.linkname}"
    if one.issym():
        return f"link to {one.linkname}"
    content = archive.extractfile(one)
    assert content is not None
    return content.read().decode()


def test_a_later_file_replaces_an_earlier_one_and_nothing_comes_twice() -> None:
    assert laid([file("a", b"1"), file("b", b"1")], [file("./b", b"2")]) == {"a": "1", "./b": "2"}


def test_a_file_replaces_a_directory_with_all_below_it() -> None:
    below = [directory("d"), directory("d/e"), file("d/e/f", b"1"), file("g", b"1")]
    assert laid(below, [file("d", b"now a file")]) == {"g": "1", "d": "now a file"}


def test_a_directory_replaces_a_file_or_a_link() -> None:
    below = [file("a", b"1"), symlink("b", "elsewhere"), file("elsewhere/x", b"1")]
    assert laid(below, [directory("a"), directory("b"), file("b/y", b"2")]) == {
        "elsewhere/x": "1",
        "a": "directory 755",
        "b": "directory 755",
        "b/y": "2",
    }


def test_a_directory_over_a_directory_changes_it_and_keeps_what_is_in_it() -> None:
    below = [directory("d", 0o755), file("d/old", b"1")]
    assert laid(below, [directory("d", 0o700), file("d/new", b"2")]) == {
        "d/old": "1",
        "d": "directory 700",
        "d/new": "2",
    }


def test_a_whiteout_hides_what_lies_below_and_is_not_passed_on() -> None:
    below = [file("gone", b"1"), directory("d"), file("d/f", b"1"), file("kept", b"1")]
    assert laid(below, [file(".wh.gone"), file(".wh.d"), file(".wh.never")]) == {"kept": "1"}


@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_hides_nothing_of_its_own_layer(first: bool) -> None:
    below = [directory("d"), file("d/old", b"1")]
    new = [directory("d", 0o700), file("d/new", b"2")]
    over = [file(".wh.d"), *new] if first else [*new, file(".wh.d")]
    assert laid(below, over) == {"d": "directory 700", "d/new": "2"}


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_directory_hides_what_the_layers_below_put_into_it(first: bool) -> None:
    below = [directory("d"), file("d/old", b"1"), directory("d/e"), file("d/e/old", b"1")]
    mark, new = file("d/.wh..wh..opq"), file("d/e/new", b"2")
    # d/e is new too: that of the layer below, with its mode, is gone.
    assert laid(below, [mark, new] if first else [new, mark]) == {
        "d": "directory 755",
        "d/e/new": "2",
    }


def test_a_hard_link_to_a_file_of_a_lower_layer_stays_a_link() -> None:
    assert laid([file("a", b"1")], [hard("b", "a")]) == {"a": "1", "b": "hard link to a"}


def test_a_hard_link_keeps_the_old_content_when_its_target_is_replaced_later() -> None:
    found = laid([file("a", b"old"), hard("b", "a"), hard("c", "./a")], [file("a", b"new")])
    assert found == {"b": "old", "c": "hard link to b", "a": "new"}


def test_a_hard_link_whose_target_is_whited_out_becomes_the_file() -> None:
    assert laid([file("a", b"1")], [hard("z/b", "a")], [file(".wh.a")]) == {"z/b": "1"}


@pytest.mark.parametrize("target", ["nothing", "d"])
def test_a_hard_link_to_nothing_is_refused_by_name(target: str) -> None:
    with pytest.raises(PlanError, match=f"layer: b: is a hard link to {target}, which is"):
        laid([directory("d"), hard("b", target)])


def test_a_path_through_a_link_goes_where_the_link_leads_but_never_out() -> None:
    below = [
        directory("usr/lib"),
        file("usr/lib/old", b"1"),
        symlink("lib", "usr/lib"),
        symlink("abs", "/usr/lib"),
        symlink("out", "../../../usr"),
    ]
    over = [file("lib/new", b"2"), file("abs/too", b"3"), file("out/x", b"4")]
    assert laid(below, over, [file("lib/.wh.old")]) == {
        "usr/lib": "directory 755",
        "lib": "link to usr/lib",
        "abs": "link to /usr/lib",
        "out": "link to ../../../usr",
        "usr/lib/new": "2",
        "usr/lib/too": "3",
        "usr/x": "4",
    }


def test_links_in_a_circle_and_files_as_directories_are_refused() -> None:
    with pytest.raises(PlanError, match="a/x: goes through more than 40 links"):
        laid([symlink("a", "b"), symlink("b", "a"), file("a/x/y")])
    with pytest.raises(PlanError, match="f: is no directory, and something lies below it"):
        laid([file("f"), file("f/x")])
    with pytest.raises(PlanError, match=r"whiteout for '\.\.'"):
        laid([file("d/.wh...")])
    with pytest.raises(PlanError, match="over 500 levels deep"):
        laid([file("d/" * 600 + "x")])


def test_a_renamed_member_keeps_owner_attributes_and_a_long_name() -> None:
    deep = "/".join(["directory"] * 30)
    attribute = {"SCHILY.xattr.user.color": "blue"}
    wanted = file("lib/f", b"content", uid=12345, mode=0o4755, pax_headers=attribute)
    layers = [Stored(tar_of([symlink("lib", deep)])), Stored(tar_of([wanted]))]
    with tarfile.open(fileobj=io.BytesIO(b"".join(merged(layers)))) as opened:
        found = opened.getmember(f"{deep}/f")
        assert (found.uid, found.mode, found.size, found.mtime) == (12345, 0o4755, 7, 1_700_000_000)
        assert found.pax_headers["SCHILY.xattr.user.color"] == "blue"
    assert [layer.opened for layer in layers] == [2, 2]


def test_names_that_are_not_utf8_stay_apart() -> None:
    one, other = "name-\udcff", "name-\udcfe"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as opened:
        for name in (one, other):
            opened.addfile(member(name, b"x"), io.BytesIO(b"x"))
    raw = b"".join(merged([Stored(archive.getvalue())]))
    with tarfile.open(fileobj=io.BytesIO(raw)) as opened:
        assert opened.getnames() == [one, other]


def test_a_truncated_layer_is_refused() -> None:
    with pytest.raises(PlanError, match="layer: ends at byte"):
        list(merged([Stored(tar_of([file("a", b"x" * 5000)])[:3000])]))


# --- against a real directory ---

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def layer(draw: st.DrawFn) -> tuple[tuple[str, str, str], ...]:
    kinds = st.sampled_from(["file", "file", "directory", "whiteout", "opaque", "hardlink"])
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(kinds)
        other = draw(PATHS) if kind == "hardlink" else ""
        steps.append((kind, draw(PATHS), other))
    return tuple(steps)


def apply(root: Path, steps: Sequence[tuple[str, str, str]], number: int) -> Members:
    """Lay a layer over a real directory as the specification says; return what was laid."""
    hidden = [_hide(root / path, kind) for kind, path, _ in steps if kind in ("opaque", "whiteout")]
    # Whiteouts count for the layers below, so they come first here; in the layer they come last.
    brought = [
        _bring(root, step, f"{number}.{at}")
        for at, step in enumerate(steps)
        if step[0] in ("file", "directory", "hardlink")
    ]
    marks = [file(str(mark.relative_to(root))) for mark in hidden]
    return [one for one in brought if one is not None] + marks


def _hide(place: Path, kind: str) -> Path:
    if kind == "whiteout":
        if place.parent.is_dir():
            _remove(place)
        return place.parent / f".wh.{place.name}"
    if place.is_dir():
        for child in list(place.iterdir()):
            _remove(child)
    return place / ".wh..wh..opq"


def _bring(
    root: Path, step: tuple[str, str, str], content: str
) -> tuple[tarfile.TarInfo, bytes] | None:
    kind, path, other = step
    place, target = root / path, root / other
    if any(above.is_file() for above in _above(root, place)):
        return None
    if kind == "hardlink" and (
        not target.is_file() or target == place or place in _above(root, target)
    ):
        return None
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "directory" and place.is_dir():
        return directory(path)
    _remove(place)
    if kind == "directory":
        place.mkdir()
        return directory(path)
    if kind == "hardlink":
        place.hardlink_to(target)
        return hard(path, other)
    place.write_text(content)
    return file(path, content.encode())


def _above(root: Path, place: Path) -> list[Path]:
    return [above for above in place.parents if above != root and above.is_relative_to(root)]


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    elif place.is_file():
        place.unlink()


def _seen(root: Path) -> dict[str, object]:
    """Return path to content, with names of one file told together."""
    files = sorted(path for path in root.rglob("*"))
    same: dict[int, list[str]] = {}
    for path in files:
        if path.is_file():
            same.setdefault(path.stat().st_ino, []).append(str(path.relative_to(root)))
    return {
        str(path.relative_to(root)): (path.read_bytes(), same[path.stat().st_ino])
        if path.is_file()
        else "directory"
        for path in files
    }


@settings(max_examples=150, deadline=None)
@given(layers=st.lists(layer(), min_size=1, max_size=4))
def test_what_is_left_is_what_a_directory_would_hold(
    layers: list[tuple[tuple[str, str, str], ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    room = tmp_path_factory.mktemp("room")
    root, got = room / "root", room / "got"
    root.mkdir()
    archives = [Stored(tar_of(apply(root, steps, at))) for at, steps in enumerate(layers)]
    raw = b"".join(merged(archives))
    with tarfile.open(fileobj=io.BytesIO(raw)) as opened:
        names = opened.getnames()
        assert len(names) == len(set(names))
        opened.extraction_filter = lambda one, _: one
        opened.extractall(got)
    got.mkdir(exist_ok=True)
    expected = _seen(root)
    # A directory that no layer names is made when something lies in it, and only then.
    named = {path: what for path, what in expected.items() if path in _seen(got)}
    assert _seen(got) == named
    missing = expected.keys() - named.keys()
    assert all(expected[path] == "directory" for path in missing)
    shutil.rmtree(room)
