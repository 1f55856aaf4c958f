"""Headers of members, changed: every reader sees the new name and everything else as it was."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import PlanError
from agent.payload.sources.headers import END, Header, Members
from agent.payload.tar import BLOCK
from tests.unit.payload.images import member, tar_of

FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
NAME = st.text("abcdefghi", min_size=1, max_size=120)
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)
SHORT = st.lists(st.text("xyz", min_size=1, max_size=20), min_size=1, max_size=3).map("/".join)


def headers(archive: bytes) -> list[Header]:
    return list(Members(io.BytesIO(archive), "source"))


@given(old=SHORT, new=PATH, target=PATH, format_=st.sampled_from(FORMATS), content=st.binary())
def test_a_file_and_a_link_to_it_are_renamed(
    old: str, new: str, target: str, format_: int, content: bytes
) -> None:
    extra = {"SCHILY.xattr.user.a": "b"} if format_ == tarfile.PAX_FORMAT else {}
    one = member(old, content, uid=1234, mode=0o4711, pax_headers=extra)
    two = member("link", type=tarfile.LNKTYPE, linkname=old)
    first, second = headers(tar_of([(one, content), (two, b"")], format_))
    padded = content + bytes(-len(content) % BLOCK)
    raw = first.named(new.encode()).raw + padded
    raw += second.named(b"other", target.encode()).raw + END
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        file, link = archive.getmembers()
        assert (file.name, file.uid, file.mode, file.mtime) == (new, 1234, 0o4711, 1_700_000_000)
        assert file.pax_headers.get("SCHILY.xattr.user.a") == extra.get("SCHILY.xattr.user.a")
        found = archive.extractfile(file)
        assert found is not None
        assert found.read() == content
        assert (link.name, link.linkname, link.islnk()) == ("other", target, True)
    again, _ = headers(raw)
    assert (again.path, again.size) == (new.encode(), len(content))


@pytest.mark.parametrize("format_", FORMATS[:2])
def test_what_is_not_changed_is_passed_on_byte_by_byte(format_: int) -> None:
    long = "directory/" * 20 + "file"
    archive = tar_of([(member(long, b"x"), b"x"), (member("./a//b/", b""), b"")], format_)
    found = Members(io.BytesIO(archive), "source")
    raw = b"".join(header.named(header.path).raw + b"".join(found.content()) for header in found)
    assert archive.startswith(raw)
    assert [header.path for header in headers(archive)] == [long.encode(), b"a/b"]


def test_a_record_for_the_whole_archive_is_refused_unless_it_is_a_comment() -> None:
    def archive(records: dict[str, str]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(
            fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=records
        ) as opened:
            opened.addfile(member("a"))
        return out.getvalue()

    (one,) = headers(archive({"comment": "made by git"}))
    assert (one.path, b"made by git" in one.raw) == (b"a", False)
    with pytest.raises(PlanError, match="source: has a global pax header"):
        headers(archive({"uname": "someone"}))


def test_an_archive_is_read_to_the_end_of_its_stream() -> None:
    archive = tar_of([(member("a", b"x"), b"x")])
    stream = io.BytesIO(archive + bytes(100_000))
    assert len(list(Members(stream, "source"))) == 1
    assert stream.read() == b""
    with pytest.raises(PlanError, match="has more after its end"):
        headers(archive + b"more")
    with pytest.raises(PlanError, match="without the zero block"):
        headers(archive[:1024])


def test_content_may_be_sought_over() -> None:
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            self.count += len(piece)
            return piece

    content = b"x" * 500_000
    stream = Counting(tar_of([(member(name, content), content) for name in "ab"]))
    assert [header.path for header in Members(stream, "source", seek=True)] == [b"a", b"b"]
    assert stream.count < 30_000
