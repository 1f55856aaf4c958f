"""Rewriting moves whole members and nothing else, and can be taken back at any point."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.payload.frames import Piece
from agent.payload.held import HeldBack
from agent.payload.rewrite import Rewriting
from agent.payload.tar import Member, TarReader
from tests.unit.payload.images import SMALL, member, mixed, root_file_system

NAMES = st.lists(st.sampled_from(["a", "b", "long" * 40]), min_size=1, max_size=3).map("/".join)
MEMBERS = st.lists(
    st.tuples(NAMES, st.sampled_from("00125"), st.integers(0, 3 * SMALL), st.booleans()),
    max_size=12,
)
FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


def archive(members: list[tuple[str, str, int, bool]], format: int, padding: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as made:
        for number, (name, kind, size, noted) in enumerate(members):
            content = mixed(number, size) if kind == "0" else b""
            header = member(name, content, type=kind.encode())
            header.linkname = "linked/" + name if kind in "12" else ""
            if noted and format == tarfile.PAX_FORMAT:
                header.pax_headers = {"SCHILY.xattr.user.note": "y" * 700}
            made.addfile(header, io.BytesIO(content))
    return out.getvalue() + bytes(512 * padding)


def blocks(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def spans(raw: bytes) -> tuple[list[tuple[Member, bytes]], int]:
    """Return each member with all its bytes, and where the end of the archive begins."""
    seen: list[Member] = []
    reader = TarReader(seen.append, lambda path: 0)
    reader.feed(raw)
    reader.close()
    assert reader.end is not None
    return [(found, raw[found.place.start : found.place.end]) for found in seen], reader.end


def joined(pieces: list[Piece]) -> bytes:
    return b"".join(bytes(piece.content) for piece in pieces)


@settings(max_examples=40, deadline=None)
@given(MEMBERS, FORMATS, st.integers(400, 3 * SMALL), st.sampled_from([0, 5, 300]))
def test_members_keep_their_bytes_and_come_in_three_groups(
    members: list[tuple[str, str, int, bool]], format: int, size: int, padding: int
) -> None:
    raw = archive(members, format, padding)
    with tempfile.TemporaryDirectory() as work:
        with Rewriting(Path(work), SMALL, move=True, overlay=False) as rewriting:
            pieces = list(rewriting.pieces(blocks(raw, size)))
            if rewriting.reason:
                # What was read of it can be put together again, to the byte.
                original = rewriting.original([piece.content for piece in pieces])
                before = b"".join(bytes(content) for content in original)
                assert raw.startswith(before)
                assert len(before) == len(raw) or len(before) % size == 0
                return
        made = joined(pieces)
        given, end = spans(raw)
        moved, end_of_moved = spans(made)
        links = [span for span in given if span[0].type == "hardlink"]
        directories = [span for span in given if span[0].type == "directory"]
        others = [span for span in given if span[0].type not in {"hardlink", "directory"}]
        directories.sort(key=lambda span: span[0].path.split("/"))
        expected = [content for group in (others, links, directories) for _, content in group]
        assert [content for _, content in moved] == expected
        assert (len(made), end_of_moved) == (len(raw), end)
        assert rewriting.tail is not None
        assert not pieces[rewriting.tail].continues
        head = sum(len(content) for _, content in others)
        assert len(joined(pieces[: rewriting.tail])) == head
        begins = {found.place.start for found, _ in moved}
        at = 0
        for piece in pieces:
            assert piece.continues == (at not in begins and at < end)
            at += len(piece.content)
        # The survey is of the same members.
        with Rewriting(Path(work), SMALL, move=False, overlay=False) as kept:
            assert joined(list(kept.pieces(blocks(raw, size)))) == raw
        assert kept.survey.tree() == rewriting.survey.tree()
        assert kept.tail is None


def test_what_is_made_does_not_depend_on_the_lengths_that_are_read(tmp_path: Path) -> None:
    raw = root_file_system()
    made = []
    for size in (1 << 20, 7777, 512, 100):
        with Rewriting(tmp_path, SMALL, move=True, overlay=None) as rewriting:
            made.append((list(rewriting.pieces(blocks(raw, size))), rewriting.tail))
    assert made[1:] == made[:-1]
    assert made[0][1] == len(made[0][0]) - 1


def test_more_headers_than_memory_are_held_back_in_their_order(tmp_path: Path) -> None:
    """Above 16 MiB they go to a file, and what was first is read from there again."""
    header = bytes(1 << 20)
    with HeldBack(tmp_path) as held:
        for number in range(40):
            name = b"d%02d" % (39 - number)
            if number % 2:
                held.link(name + header, after=number * 10, priority=number)
            else:
                held.directory(name + header, after=number * 10, priority=number, name=name)
        tail = [content[:3] for content, _ in held.tail()]
        woven = b"".join(bytes(c)[:10] for c in held.woven([b"x" * 395, b"y" * 5]))
    numbers = [39 - number for number in range(40)]
    links = [b"d%02d" % number for number in numbers if number % 2 == 0]
    assert tail == links + sorted(b"d%02d" % number for number in numbers if number % 2)
    assert woven.count(b"d") == 40
    assert woven.endswith(b"d00" + bytes(7) + b"xxxxx" + b"yyyyy")
