"""The tar reader sees what GNU tar would unpack, and refuses what readers could disagree about."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.payload.tar import BLOCK, Member, TarError, TarReader
from tests.unit.payload.images import files, member, tar_of

LONG = "/".join(["directory-with-a-long-name"] * 8) + "/file"


def read(archive: bytes, step: int = 1 << 20, keep: int = 64) -> list[Member]:
    seen: list[Member] = []
    reader = TarReader(seen.append, lambda path: keep)
    for start in range(0, len(archive), step):
        reader.feed(archive[start : start + step])
    reader.close()
    return seen


def refused(archive: bytes) -> str:
    with pytest.raises(TarError) as caught:
        read(archive)
    return str(caught.value)


def header(name: bytes, kind: bytes = b"0", size: bytes = b"0", link: bytes = b"") -> bytes:
    """Return a ustar header with these fields, whatever they are."""
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(2 * BLOCK)
PART = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda part: part not in (".", ".."))
PATH = st.lists(PART, min_size=1, max_size=5).map("/".join)
FORMAT = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


@settings(max_examples=40)
@given(
    st.lists(st.tuples(PATH, st.binary(max_size=2000)), max_size=6),
    FORMAT,
    st.integers(1, 1500),
    st.integers(0, 700),
)
def test_members_are_those_that_were_put_in_whatever_the_pieces(
    contents: list[tuple[str, bytes]], format: int, step: int, keep: int
) -> None:
    members = [(member(path, content), content) for path, content in contents]
    seen = read(tar_of(members, format), step, keep)
    assert [(m.path, m.size, m.head) for m in seen] == [
        (path, len(content), content[:keep]) for path, content in contents
    ]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_kind_of_member_is_told_apart(format: int) -> None:
    headers = [
        member("./", type=tarfile.DIRTYPE),
        member("./a", type=tarfile.DIRTYPE),
        member("a//b"),
        member("a/hard", type=tarfile.LNKTYPE, linkname="./a/b"),
        member("a/soft", type=tarfile.SYMTYPE, linkname="../x/../y"),
        member("/dev/null", type=tarfile.CHRTYPE),
        member("dev/vda", type=tarfile.BLKTYPE),
        member("run/fifo", type=tarfile.FIFOTYPE),
        member(LONG[:230]),
    ]
    seen = read(tar_of([(found, b"") for found in headers], format))
    assert [(m.path, m.type, m.link) for m in seen] == [
        ("", "directory", ""),
        ("a", "directory", ""),
        ("a/b", "file", ""),
        ("a/hard", "hardlink", "a/b"),
        ("a/soft", "symlink", "../x/../y"),
        ("dev/null", "other", ""),
        ("dev/vda", "other", ""),
        ("run/fifo", "other", ""),
        (LONG[:230], "file", ""),
    ]
    assert {m.mtime for m in seen} == {1_700_000_000}


def test_a_size_that_octal_cannot_hold_is_read_from_base_256_and_from_pax() -> None:
    size = 9 << 33
    reader = TarReader(lambda _: None, lambda _: 0)
    reader.feed(header(b"big", size=b"\x80" + size.to_bytes(11, "big")))
    with pytest.raises(TarError, match="in the middle of a member"):
        reader.close()
    seen: list[Member] = []
    reader = TarReader(seen.append, lambda _: 0)
    pax = b"18 size=%d\n" % size
    pax = b"%d size=%d\n" % (len(pax), size)
    reader.feed(header(b"h", b"x", b"%o" % len(pax)) + pax.ljust(BLOCK, b"\0") + header(b"big"))
    assert seen[0].size == size


def test_a_directory_of_the_first_unix_tar_ends_in_a_slash() -> None:
    (seen,) = read(header(b"etc/", b"\0") + END)
    assert (seen.path, seen.type) == ("etc", "directory")


def test_a_hard_link_has_no_content_though_old_writers_give_it_a_size() -> None:
    archive = header(b"a", size=b"3") + b"abc".ljust(BLOCK, b"\0")
    archive += header(b"b", b"1", b"3", b"a") + header(b"c") + END
    assert [m.path for m in read(archive)] == ["a", "b", "c"]


def test_a_volume_label_is_no_member() -> None:
    assert read(header(b"backup", b"V") + END) == []


def test_sparse_files_of_old_gnu_tar_count_what_is_stored() -> None:
    block = bytearray(header(b"sparse", b"S", b"1000"))  # 512 in octal
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = bytearray(BLOCK)
    more[504] = 1
    archive = bytes(block) + bytes(more) + bytes(BLOCK) + b"x" * BLOCK + header(b"next") + END
    assert [(m.path, m.size, m.head[:2]) for m in read(archive)] == [
        ("sparse", 512, b"xx"),
        ("next", 0, b""),
    ]


def test_records_of_pax_may_hold_newlines_and_equal_signs() -> None:
    odd = member("a", pax_headers={"SCHILY.xattr.user.x": "1\n=\n2", "path": "odd\nname"})
    assert [m.path for m in read(tar_of([(odd, b"")]))] == ["odd\nname"]


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"", "ends at byte 0 without the zero block"),
        (b"not a tar" * 100, "is no tar archive, or damaged"),
        (header(b"a")[:-1], "ends at byte 511 in the middle of a member"),
        (header(b"a"), "ends at byte 512 without the zero block"),
        (header(b"a", size=b"7"), "in the middle of a member"),
        (header(b"x" * 100, b"L", b"5"), "in the middle of a member"),
        (header(b"a") + END[:BLOCK], "without the zero block"),
        (header(b"a") + END[:BLOCK] + header(b"b") + END, "has a lone zero block"),
        (header(b"a") + END + header(b"b") + END, "has more after its end at byte 1536"),
        (header(b"../a") + END, "../a: climbs with `..`"),
        (header(b"a/../../b") + END, "climbs with `..`"),
        (header(b"a", b"1", link=b"../etc/shadow") + END, "../etc/shadow: climbs"),
        (header(b"a", b"2", b"5", b"b") + END, "a: is a symlink with 5 bytes of content"),
        (header(b"a", b"5", b"5") + END, "a: is a directory with 5 bytes of content"),
        (header(b"a", b"3", b"5") + END, "a: is a other with 5 bytes of content"),
        (header(b"a", b"M") + END, "a: is of type b'M', which is no part of a file system"),
        (header(b"a", b"D") + END, "is of type b'D'"),
        (header(b".") + END, "has a file without a name"),
        (header(b"a", size=b"9999") + END, "has the number b'9999"),
        (header(b"a", size=b"\xff" * 12) + END, "has the number"),
        (header(b"h", b"x", b"77777777777") + END, "has an extended header of 8589934591 bytes"),
        (header(b"h", b"x", b"3") + b"9 a".ljust(BLOCK, b"\0"), "has a broken pax header"),
        (header(b"h", b"x", b"4") + b"5 a=".ljust(BLOCK, b"\0"), "has a broken pax header"),
        (header(b"h", b"x", b"11") + b"9 size=x\n".ljust(BLOCK, b"\0") + header(b"a"), "of b'x'"),
        (header(b"h", b"L", b"2") + b"ab".ljust(BLOCK, b"\0") + END, "a header without its member"),
        (header(b"h", b"L", b"10000") + b"ab" * 2048 + header(b"a") + END, "longer than a path"),
    ],
)
def test_what_readers_could_disagree_about_is_refused(archive: bytes, message: str) -> None:
    assert message in refused(archive)


@settings(max_examples=40)
@given(st.binary(max_size=3000))
def test_any_bytes_end_in_members_or_in_a_named_refusal(content: bytes) -> None:
    with suppress(TarError):
        assert read(content, step=100) is not None


@settings(max_examples=40)
@given(st.integers(0, 3 * BLOCK - 1), st.integers(1, 255))
def test_a_damaged_archive_never_ends_in_anything_but_a_refusal_or_members(
    place: int, change: int
) -> None:
    archive = bytearray(files({LONG: b"content"}))
    archive[place] ^= change
    with suppress(TarError):
        assert [m.path for m in read(bytes(archive))] != []


def test_padding_after_the_end_is_welcome() -> None:
    out = io.BytesIO(files({"a": b"1"}))
    assert [m.path for m in read(out.getvalue() + bytes(100_000))] == ["a"]
