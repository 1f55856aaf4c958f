"""Packing: any builder's tar in, the same bytes out each time, never half a file."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import io
import lzma
import os
import random
import tarfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from agent.errors import PlanError
from agent.payload.document import parse
from agent.payload.manifest import Os
from agent.payload.pack import Packed, PackOptions, pack
from agent.payload.sign import SigningKey, verify
from tests.unit.payload.images import (
    DEBIAN,
    SMALL,
    files,
    member,
    mixed,
    packed,
    root_file_system,
    signing_key,
    tar_of,
)

RAW = root_file_system()


def unpacked(payload: bytes) -> bytes:
    """Decode a payload as plain `zstd -d` does: all frames, one after the other."""
    reader = zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True)
    return reader.read()


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    (tmp_path / "keys").mkdir()
    return signing_key(tmp_path / "keys")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_the_payload_is_the_tar_and_the_manifest_says_so(out: Path, key: SigningKey) -> None:
    made = packed(RAW, out, "debian13", key)
    assert sorted(path.name for path in out.iterdir()) == [
        "debian13.json",
        "debian13.json.sig",
        "debian13.tar.zst",
    ]
    payload, manifest = made.payload.read_bytes(), made.manifest
    assert unpacked(payload) == RAW
    assert (manifest.size, manifest.payload.size) == (len(RAW), len(payload))
    assert manifest.sha256 == sha256(RAW).hexdigest()
    assert (manifest.kind, manifest.os) == ("tree", Os(id="debian", version="13"))
    assert parse(made.document.read_bytes()) == manifest
    verify(made.document.read_bytes(), made.signature.read_bytes(), [key.public])
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in out.iterdir())


def test_each_frame_stands_alone_and_says_how_long_it_is(out: Path, key: SigningKey) -> None:
    made = packed(RAW, out, key=key)
    payload = made.payload.read_bytes()
    for chunk in made.manifest.chunks:
        frame = payload[chunk.at : chunk.at + chunk.stored]
        assert sha256(frame).hexdigest() == chunk.sha256
        assert zstandard.get_frame_parameters(frame).content_size == chunk.length
        content = zstandard.ZstdDecompressor().decompress(frame)
        assert content == RAW[chunk.offset : chunk.offset + chunk.length]
        assert chunk.zero == (content.count(0) == len(content))
    assert sum(chunk.zero for chunk in made.manifest.chunks) >= 4


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_same_tar_gives_the_same_bytes_on_any_number_of_cores(
    out: Path, key: SigningKey, workers: int
) -> None:
    first = packed(RAW, out, "first", key)
    options = PackOptions(level=1, chunk_size=SMALL, workers=workers)
    again = pack(io.BytesIO(RAW), out, "again", key, options=options)
    assert again.payload.read_bytes() == first.payload.read_bytes()
    first_document = first.document.read_bytes().replace(b'"first', b'"again')
    assert again.document.read_bytes() == first_document


@pytest.mark.parametrize(
    "compress",
    [
        lambda raw: raw,
        gzip.compress,
        lzma.compress,
        bz2.compress,
        zstandard.ZstdCompressor().compress,
        lambda raw: (
            zstandard.ZstdCompressor().compress(raw[:999])
            + zstandard.ZstdCompressor().compress(raw[999:])
        ),
        lambda raw: gzip.compress(raw[:999]) + gzip.compress(raw[999:]),
        lambda raw: b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstandard.ZstdCompressor().compress(raw),
    ],
    ids=["plain", "gzip", "xz", "bzip2", "zstd", "zstd frames", "gzip members", "pzstd"],
)
def test_the_tar_may_come_compressed(
    out: Path, key: SigningKey, compress: Callable[[bytes], bytes]
) -> None:
    assert packed(compress(RAW), out, key=key).manifest.sha256 == sha256(RAW).hexdigest()


def test_the_tar_may_come_through_a_pipe(out: Path, key: SigningKey) -> None:
    receiver, sender = os.pipe()

    def send() -> None:
        with os.fdopen(sender, "wb") as pipe:
            pipe.write(RAW)

    thread = threading.Thread(target=send)
    thread.start()
    seen: list[tuple[int, int]] = []
    with os.fdopen(receiver, "rb") as source:
        made = pack(source, out, "x", key, progress=lambda done, total: seen.append((done, total)))
    thread.join()
    assert made.manifest.sha256 == sha256(RAW).hexdigest()
    assert seen[-1] == (len(RAW), 0)


def system(*more: tuple[str, bytes]) -> bytes:
    """Return an archive of a system with a directory before and a link among its files."""
    directory = (member("usr", type=tarfile.DIRTYPE, mode=0o755), b"")
    link = (member("usr/linked", type=tarfile.LNKTYPE, linkname="usr/0"), b"")
    contents = [(f"usr/{number}", mixed(number, 30_000)) for number in range(20)]
    listed = [("etc/os-release", DEBIAN), *contents, *more]
    members = [(member(path, content), content) for path, content in listed]
    return tar_of([directory, *members[:4], link, *members[4:]])


def through_a_pipe(raw: bytes, out: Path, key: SigningKey, options: PackOptions) -> Packed:
    receiver, sender = os.pipe()

    def send() -> None:
        with os.fdopen(sender, "wb") as pipe:
            pipe.write(raw)

    thread = threading.Thread(target=send)
    thread.start()
    with os.fdopen(receiver, "rb") as source:
        made = pack(source, out, "x", key, options=options)
    thread.join()
    return made


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("more", [(), (("./usr/7", b"again"),)], ids=["moved", "kept"])
def test_a_pipe_gives_the_bytes_that_a_file_gives_even_if_a_name_comes_again_at_the_end(
    out: Path, key: SigningKey, workers: int, more: tuple[tuple[str, bytes], ...]
) -> None:
    """The pipe cannot be read again, so what was packed by then is taken apart again."""
    raw = system(*more)
    options = PackOptions(level=1, chunk_size=SMALL, workers=workers)
    made = through_a_pipe(raw, out, key, options)
    payload, document = made.payload.read_bytes(), made.document.read_bytes()
    again = pack(io.BytesIO(gzip.compress(raw)), out, "x", key, options=options)
    assert (again.payload.read_bytes(), again.document.read_bytes()) == (payload, document)
    assert (unpacked(payload) == raw) == bool(more)
    assert made.manifest.tree is not None
    if more:
        assert made.ordered == "usr/7: is there twice"
        assert made.manifest.tree.tail is None
    else:
        assert made.ordered == ""
        tail = made.manifest.chunks[made.manifest.tree.tail or 0]
        with tarfile.open(fileobj=io.BytesIO(unpacked(payload)[tail.offset :])) as archive:
            assert archive.getnames() == ["usr/linked", "usr"]


def test_an_image_without_an_operating_system_stays_in_its_order(
    out: Path, key: SigningKey
) -> None:
    directory = (member("etc", type=tarfile.DIRTYPE), b"")
    raw = tar_of([directory, (member("etc/motd", b"x"), b"x")])
    made = packed(raw, out, key=key)
    assert made.manifest.tree is not None
    assert made.manifest.tree.tail is None
    assert unpacked(made.payload.read_bytes()) == raw
    options = PackOptions(level=1, overlay=False)
    made = pack(io.BytesIO(raw), out, "x", key, options=options)
    assert made.manifest.tree is not None
    assert made.manifest.tree.tail == 1


def test_progress_is_told_in_bytes_of_the_source(
    out: Path, key: SigningKey, tmp_path: Path
) -> None:
    (tmp_path / "root.tar.gz").write_bytes(gzip.compress(RAW))
    seen: list[tuple[int, int]] = []
    with (tmp_path / "root.tar.gz").open("rb") as source:
        pack(source, out, "x", key, progress=lambda done, total: seen.append((done, total)))
    size = (tmp_path / "root.tar.gz").stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


def test_an_image_is_as_old_as_its_newest_member_unless_a_time_is_given(
    out: Path, key: SigningKey
) -> None:
    assert packed(RAW, out, key=key).manifest.created == datetime(
        2023, 11, 14, 22, 13, 20, tzinfo=UTC
    )
    given = datetime(2026, 11, 22, tzinfo=UTC)
    options = PackOptions(level=1, created=given)
    assert pack(io.BytesIO(RAW), out, "x", key, options=options).manifest.created == given


def test_the_payload_may_be_said_to_lie_elsewhere(out: Path, key: SigningKey) -> None:
    urls = ("https://mirror.example.com/x.tar.zst", "x.tar.zst")
    made = pack(io.BytesIO(RAW), out, "x", key, options=PackOptions(level=1, urls=urls))
    assert made.manifest.payload.urls == urls


def test_an_overlay_without_an_operating_system_can_be_packed(out: Path, key: SigningKey) -> None:
    made = packed(files({"etc/motd": b"hello"}), out, key=key)
    assert made.manifest.os is None
    assert made.manifest.tree is not None
    assert made.manifest.tree.members == 1


NOISE = random.Random(9).randbytes(5000)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "ends at byte 0 without the zero block"),
        (NOISE, "is no tar archive, or damaged"),
        (RAW[:-20_000], "ends at byte"),
        (RAW + RAW, "has more after its end"),
        (gzip.compress(RAW)[:-1000], "cannot be read: Compressed file ended before"),
        (gzip.compress(RAW)[:-8] + b"\0" * 8, "cannot be read: CRC check failed"),
        (lzma.compress(RAW)[:-1000], "cannot be read: Compressed file ended before"),
        (b"\x28\xb5\x2f\xfd" + NOISE, "cannot be read: zstd decompress error"),
        (zstandard.ZstdCompressor().compress(RAW)[:-1000], "ends at byte"),
    ],
)
def test_a_source_that_is_no_sound_archive_is_refused_and_nothing_is_left(
    out: Path, key: SigningKey, source: bytes, message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        packed(source, out, key=key)
    assert str(caught.value).startswith(f"source: {message}")
    assert list(out.iterdir()) == []


def test_a_failed_pack_leaves_the_older_image_as_it_was(out: Path, key: SigningKey) -> None:
    packed(RAW, out, key=key)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(PlanError):
        packed(RAW[:-20_000], out, key=key)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_wrong_options_are_all_named_before_anything_is_read(out: Path, key: SigningKey) -> None:
    class Unread(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("was read")

    options = PackOptions(
        level=99,
        chunk_size=1000,
        urls=("../x",),
        created=datetime(2026, 1, 1),
    )
    with pytest.raises(PlanError) as caught:
        pack(Unread(), out, "../evil", key, options=options)
    assert [problem.where for problem in caught.value.problems] == [
        "name",
        "level",
        "chunk_size",
        "urls[0]",
        "created",
    ]


def test_a_directory_that_is_not_there_is_a_named_problem(out: Path, key: SigningKey) -> None:
    with pytest.raises(PlanError, match="missing: cannot be written to: No such file"):
        packed(RAW, out / "missing", key=key)


def test_a_directory_that_takes_no_files_is_a_named_problem(key: SigningKey) -> None:
    with pytest.raises(PlanError, match="/proc: cannot be written to"):
        packed(RAW, Path("/proc"), key=key)


def test_what_a_killed_run_left_goes_with_the_next_and_nothing_else_does(
    out: Path, key: SigningKey
) -> None:
    names = [".web.abcd_123", ".web.heldheld", ".web.justmade", ".web.keep", ".other.abcd_123"]
    for name in names:
        (out / name).mkdir()
        (out / name / "payload").write_bytes(b"half")
        if name != ".web.justmade":
            os.utime(out / name, (1, 1))
    (out / ".web.linklink").symlink_to(out / ".other.abcd_123")
    held = os.open(out / ".web.heldheld", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)  # as another run that is at it
        pack(io.BytesIO(root_file_system()), out, "web", key, options=PackOptions(level=1))
    finally:
        os.close(held)
    left = {path.name for path in out.iterdir() if path.name.startswith(".")}
    assert left == {*names[1:], ".web.linklink"}
    assert (out / ".other.abcd_123/payload").exists()
