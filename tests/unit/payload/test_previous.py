"""Packing again: what did not change keeps its bytes, and nothing of the older is believed."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

from agent.cli import main
from agent.errors import PlanError
from agent.payload.frames import Frames, Piece
from agent.payload.manifest import Manifest
from agent.payload.pack import Packed, PackOptions, pack
from agent.payload.publish import publishing
from agent.payload.sign import SigningKey
from tests.unit.payload.images import DEBIAN, SMALL, files, member, mixed, signing_key, tar_of

OLD = {"etc/os-release": DEBIAN} | {f"usr/{n}": mixed(n, 9000) for n in range(150)}
NEW = OLD | {"usr/20": b"changed", "usr/77a": b"added"}


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    (tmp_path / "keys").mkdir()
    return signing_key(tmp_path / "keys")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def old(out: Path, key: SigningKey) -> Packed:
    options = PackOptions(level=1, chunk_size=SMALL)
    return pack(io.BytesIO(files(OLD)), out, "old", key, options=options)


def again(old: Packed, out: Path, key: SigningKey, level: int, new: dict[str, bytes]) -> Packed:
    options = PackOptions(level=level, previous=old.document)
    return pack(io.BytesIO(files(new)), out, "new", key, options=options)


def frames_of(packed: Packed) -> dict[str, bytes]:
    payload = packed.payload.read_bytes()
    return {c.sha256: payload[c.at : c.at + c.stored] for c in packed.manifest.chunks}


def content(packed: Packed) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(
        packed.payload.read_bytes(), read_across_frames=True
    )
    return reader.read()


def test_unchanged_chunks_keep_their_bytes_even_at_another_level(
    old: Packed, out: Path, key: SigningKey
) -> None:
    new = again(old, out, key, 19, NEW)
    assert new.reused is not None
    assert content(new) == files(NEW)
    assert new.manifest.chunk_size == SMALL
    before, after = frames_of(old), frames_of(new)
    same = before.keys() & after.keys()
    assert all(before[digest] == after[digest] for digest in same)
    assert new.reused.stored == sum(len(before[digest]) for digest in same)
    assert 0.5 < new.reused.stored / new.manifest.payload.size < 1
    assert len(new.manifest.chunks) - new.reused.chunks <= 6


def test_the_same_image_is_reused_whole(old: Packed, out: Path, key: SigningKey) -> None:
    new = again(old, out, key, 19, OLD)
    assert new.payload.read_bytes() == old.payload.read_bytes()
    assert new.manifest.chunks == old.manifest.chunks
    assert new.reused is not None
    assert new.reused.stored == new.manifest.payload.size


def test_without_the_older_payload_equal_chunks_come_out_equal_at_the_same_level(
    old: Packed, out: Path, key: SigningKey
) -> None:
    old.payload.unlink()
    new = again(old, out, key, 1, NEW)
    assert new.reused is not None
    assert new.reused.chunks > len(old.manifest.chunks) / 2
    other = again(old, out, key, 19, NEW)
    assert other.reused is not None
    assert other.reused.stored < new.reused.stored / 2


def test_what_is_packed_over_itself_is_read_before_it_is_replaced(
    old: Packed, out: Path, key: SigningKey
) -> None:
    before = frames_of(old)
    options = PackOptions(level=19, previous=old.document)
    new = pack(io.BytesIO(files(NEW)), out, "old", key, options=options)
    assert content(new) == files(NEW)
    assert len(before.keys() & frames_of(new).keys()) > len(before) / 2


def test_a_damaged_older_payload_spoils_nothing(old: Packed, out: Path, key: SigningKey) -> None:
    """One frame is another's, one has a flipped bit, and the rest is cut off."""
    payload = bytearray(old.payload.read_bytes())
    chunks = old.manifest.chunks
    payload[chunks[2].at + chunks[2].stored // 2] ^= 1
    del payload[chunks[-3].at + 7 :]
    old.payload.write_bytes(payload)
    new = again(old, out, key, 19, OLD)
    assert content(new) == files(OLD)
    assert new.reused is not None
    lost = {chunks[2].sha256, *(chunk.sha256 for chunk in chunks[-3:])}
    kept = {chunk.sha256 for chunk in chunks} - lost
    assert kept <= {chunk.sha256 for chunk in new.manifest.chunks}
    assert chunks[2].sha256 not in {chunk.sha256 for chunk in new.manifest.chunks}


def test_a_manifest_that_lies_about_its_frames_spoils_nothing(
    old: Packed, out: Path, key: SigningKey
) -> None:
    """The digests are right, the lengths are not: what counts is what a frame decodes to."""
    first, second, *rest = old.manifest.chunks
    shifted = replace(first, length=first.length - 512)
    moved = replace(second, offset=shifted.length, length=second.length + 512)
    document = json.loads(old.document.read_text())
    for number, chunk in enumerate((shifted, moved)):
        document["chunks"][number] |= {"offset": chunk.offset, "length": chunk.length}
    old.document.write_text(json.dumps(document))
    new = again(old, out, key, 19, OLD)
    assert content(new) == files(OLD)
    assert {chunk.sha256 for chunk in rest[1:]} <= {c.sha256 for c in new.manifest.chunks}


def test_a_disk_reuses_its_chunks_and_no_tree_s(old: Packed, out: Path, key: SigningKey) -> None:
    def disk(name: str, blocks: bytes, **options: object) -> Manifest:
        chosen = PackOptions(chunk_size=SMALL, **options)  # type: ignore[arg-type]
        with publishing(out, name, key, chosen, kind="disk") as image:
            frames: Frames = image.frames("disk")
            frames.write([Piece(mixed(block, SMALL)) for block in blocks], image.payload)
            made = image.finish(frames, created=old.manifest.created)
        assert (made.reused is None) == (chosen.previous is None)
        return made.manifest

    first = disk("disk", b"abcd", level=1)
    second = disk("disk2", b"abXd", level=9, previous=out / "disk.json")
    assert [a.sha256 == b.sha256 for a, b in zip(first.chunks, second.chunks, strict=True)] == [
        True,
        True,
        False,
        True,
    ]
    with pytest.raises(
        PlanError, match=r"old\.json: is the image of a tree, this one is of a disk"
    ):
        disk("disk3", b"a", previous=old.document)


def test_an_older_manifest_that_is_none_is_a_named_problem(out: Path, key: SigningKey) -> None:
    (out / "old.json").write_text("{}")
    before = list(out.iterdir())
    for path, message in ((out / "old.json", "is missing"), (out / "no", "no: cannot be read")):
        with pytest.raises(PlanError, match=message):
            pack(io.BytesIO(files(NEW)), out, "x", key, options=PackOptions(previous=path))
    assert list(out.iterdir()) == before


def test_the_command_says_how_much_is_reused(
    old: Packed, out: Path, key: SigningKey, tmp_path: Path
) -> None:
    (tmp_path / "new.tar").write_bytes(files(NEW))
    args = ["pack", str(tmp_path / "new.tar"), "-n", "new", "-d", str(out), "--level", "1"]
    args += ["--key", str(tmp_path / "keys/key.pem"), "--previous", str(old.document)]
    said = CliRunner().invoke(main, args)
    assert said.exit_code == 0, said.output
    assert "% is that of the older image" in said.output
    told = json.loads(CliRunner().invoke(main, [*args, "--json"]).output)
    manifest = json.loads((out / "new.json").read_text())
    older = {chunk["sha256"] for chunk in json.loads(old.document.read_text())["chunks"]}
    same = [chunk["stored"] for chunk in manifest["chunks"] if chunk["sha256"] in older]
    share = 100 * sum(same) / manifest["payload"]["size"]
    assert (told["reused"]["chunks"], told["reused"]["stored"]) == (len(same), sum(same))
    assert told["reused"]["percent"] == pytest.approx(share, abs=0.1)
    assert 50 < share < 100


def test_times_of_access_are_named_as_what_makes_equal_builds_differ(
    out: Path, key: SigningKey, tmp_path: Path
) -> None:
    def build(time: str) -> Path:
        members = []
        for path, body in OLD.items():
            header = member(path, body)
            header.pax_headers = {"atime": time, "ctime": time}
            members.append((header, body))
        (tmp_path / "build.tar").write_bytes(tar_of(members))
        return tmp_path / "build.tar"

    args = ["-d", str(out), "--level", "1", "--key", str(tmp_path / "keys/key.pem")]
    first = CliRunner().invoke(main, ["pack", str(build("1.5")), "-n", "old", *args])
    assert "delete=atime" not in first.output
    args += ["--previous", str(out / "old.json"), "-n", "new"]
    second = CliRunner().invoke(main, ["pack", str(build("2.5")), *args])
    assert f"{len(OLD)} members carry the time they were read or changed" in second.output
    assert "--pax-option=delete=atime,delete=ctime" in second.output
    third = CliRunner().invoke(main, ["pack", str(build("1.5")), *args])
    assert "100.0 % is that of the older image" in third.output
    assert "delete=atime" not in third.output
