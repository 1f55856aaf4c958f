"""The list of faults, as properties: the right bytes or a named failure, in the time stated.

docs/faults.md says which fault has which outcome, and where it is tested. Two mirrors make these
quick: one commits the fault, the other is honest, so what is proven is that nothing bad gets past.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.errors import ImageError, PlanError
from agent.payload.client import origin
from agent.payload.document import encode
from agent.payload.fetch import Source, get_manifest
from agent.payload.manifest import Chunk, Manifest
from agent.payload.options import FetchOptions
from agent.payload.stream import Tally, stream
from tests.adapters.crooked import (
    Answer,
    Crooked,
    Cut,
    CutBody,
    Fault,
    Request,
    Stall,
    Status,
    Trickle,
    Wire,
    WrongLength,
    always,
    first,
    mirrors,
)
from tests.unit.payload.images import SMALL, Image, image

PAYLOAD = "image.tar.zst"
QUICK = FetchOptions(
    connections=2, connect=1.0, stall=0.3, request=0.8, patience=2.0, warn=lambda message: None
)
SLACK = 6.0
"""Seconds that a loaded test machine may add."""
many = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return image(tmp_path_factory.mktemp("image"))


def streamed(
    sample: Image,
    *urls: str,
    options: FetchOptions = QUICK,
    manifest: Manifest | None = None,
    tally: Tally | None = None,
) -> bytes:
    """Stream the image; every piece is checked against the truth as it comes."""
    source = Source(urls[0], "", "", urls, frozenset(map(origin, urls)))
    content = bytearray()
    for piece in stream(manifest or sample.manifest, source, options, tally):
        assert piece == sample.raw[len(content) : len(content) + len(piece)], len(content)
        content += piece
    return bytes(content)


def right_in_spite_of(sample: Image, fault: Fault, *more: Fault) -> Tally:
    """Stream from a mirror that commits the faults, and an honest one beside it."""
    tally, began = Tally(), time.monotonic()
    bad, good = Crooked(dict(sample.files), first(fault, *more)), Crooked(dict(sample.files))
    with mirrors(bad, good):
        assert streamed(sample, bad.url(PAYLOAD), good.url(PAYLOAD), tally=tally) == sample.raw
    assert bad.requests, "the fault was not committed"
    assert time.monotonic() - began < QUICK.patience + SLACK
    return tally


def right_or_named(sample: Image, server: Crooked, options: FetchOptions = QUICK) -> str | None:
    """Stream from one mirror: None for the right bytes, else the message, which must name it."""
    began = time.monotonic()
    try:
        assert streamed(sample, server.url(PAYLOAD), options=options) == sample.raw
        message = None
    except ImageError as error:
        message = str(error)
        assert server.url(PAYLOAD) in message
        assert message.startswith("image image: chunk ")
    assert time.monotonic() - began < options.patience + SLACK
    return message


@st.composite
def places(draw: st.DrawFn) -> tuple[str, float]:
    """Return a class of bytes of an answer, and where in it."""
    what = draw(st.sampled_from(["head", "edge", "body", "end"]))
    return what, draw(st.floats(0, 1))


def position(place: tuple[str, float], answer: Answer) -> int:
    """Return a place in head and body together: the header, its last byte, the chunk, its end."""
    what, part = place
    head, whole = len(answer.head), len(answer.head) + len(answer.body)
    if what == "head":
        return int(part * head)
    if what == "edge":
        return head + round(2 * part) - 1
    return whole - 1 - round(part) if what == "end" else head + int(part * len(answer.body))


class At:
    """A fault at a place that is known only when there is an answer."""

    def __init__(self, kind: type[Cut | Stall | Trickle], place: tuple[str, float]) -> None:
        self.kind, self.place = kind, place

    def __repr__(self) -> str:
        return f"At({self.kind.__name__}, {self.place})"

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        after = position(self.place, answer)
        fault = Trickle(after=after) if self.kind is Trickle else self.kind(after=after)
        fault.commit(answer, wire, server)


@many
@given(st.sampled_from([Cut, Stall, Trickle]), places())
@example(Cut, ("head", 0.0))
@example(Cut, ("end", 0.0))
def test_a_connection_that_breaks_at_any_byte_costs_nothing_but_time(
    sample: Image, kind: type[Cut | Stall | Trickle], place: tuple[str, float]
) -> None:
    right_in_spite_of(sample, At(kind, place))


@settings(many, max_examples=10)
@given(st.lists(places(), min_size=1, max_size=4))
def test_a_chunk_is_put_together_from_what_each_broken_connection_brought(
    sample: Image, where: list[tuple[str, float]]
) -> None:
    options = replace(QUICK, connections=1, patience=4.0)
    with Crooked(dict(sample.files), first(*[At(Cut, place) for place in where])) as server:
        assert right_or_named(sample, server, options) is None


@many
@given(st.integers(-70_000, 70_000))
@example(0)
@example(-1)
@example(1)
def test_a_content_length_that_is_wrong_is_noticed(sample: Image, more: int) -> None:
    right_in_spite_of(sample, WrongLength(more))


class Flipped:
    """One bit of one byte of the body."""

    def __init__(self, part: float, bit: int) -> None:
        self.part, self.bit = part, bit

    def __repr__(self) -> str:
        return f"Flipped({self.part}, {self.bit})"

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        body = bytearray(answer.body)
        body[min(len(body) - 1, int(self.part * len(body)))] ^= 1 << self.bit
        wire.send(answer.head + body)


@many
@given(st.floats(0, 1), st.integers(0, 7))
@example(0.0, 0)  # the frame's magic
@example(1.0, 7)  # its last byte
def test_one_flipped_bit_of_any_frame_is_that_mirror_s_corrupt_chunk(
    sample: Image, part: float, bit: int
) -> None:
    tally = right_in_spite_of(sample, Flipped(part, bit))
    assert list(tally.corrupt.values()) == [1]


@many
@given(st.sampled_from(["image.json", "image.json.sig"]), st.floats(0, 1), st.integers(0, 7))
@example("image.json.sig", 0.0, 0)
@example("image.json.sig", 1.0, 7)
@example("image.json", 0.0, 0)
@example("image.json", 1.0, 7)  # the newline at the end
def test_one_flipped_bit_of_manifest_or_signature_is_no_manifest(
    sample: Image, path: str, part: float, bit: int
) -> None:
    content = bytearray(sample.files[path])
    content[min(len(content) - 1, int(part * len(content)))] ^= 1 << bit
    bad = Crooked(dict(sample.files) | {path: bytes(content)})
    good = Crooked(dict(sample.files))
    with mirrors(bad, good):
        urls = [bad.url("image.json"), good.url("image.json")]
        manifest, source = get_manifest(urls, [sample.key.public], QUICK)
    assert source.manifest_url == urls[1]
    assert manifest == sample.manifest


@settings(many, max_examples=6)
@given(st.integers(0, 1_000_000))
@example(0)
def test_a_truncated_payload_is_named_with_both_lengths(sample: Image, left: int) -> None:
    size = len(sample.payload)
    left %= size
    with Crooked({PAYLOAD: sample.payload[:left]}) as server:
        message = right_or_named(sample, server, replace(QUICK, patience=1.5))
    assert message is not None
    assert f"has a payload of {left} bytes, the manifest says {size}" in message


@settings(many, max_examples=12)
@given(
    st.integers(0, 12),
    st.sampled_from(["strong", "weak", "none"]),
    st.booleans(),
    st.sampled_from([None, CutBody(700)]),
)
@example(1, "none", True, CutBody(700))  # a chunk of one file's head and the other file's tail
def test_a_file_swapped_midway_never_gives_a_wrong_byte(
    sample: Image, when: int, etag: Literal["strong", "weak", "none"], back: bool, cut: Fault | None
) -> None:
    """The other file has the same length. If it comes for one request only, nothing is lost."""
    other = bytes(byte ^ 0x55 for byte in sample.payload)

    def script(request: Request) -> Fault | None:
        swapped = request.number == when if back else request.number >= when
        server.files[PAYLOAD] = other if swapped else sample.payload
        return cut if request.number == max(0, when - 1) else None

    with Crooked(dict(sample.files), script) as server:
        server.etags, server.weak = etag != "none", etag == "weak"
        message = right_or_named(sample, server, replace(QUICK, patience=3.0))
    if back:
        assert message is None
    elif when < 8:
        assert message is not None
        assert "with sha256" in message


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429])
def test_a_burst_of_refusals_is_waited_for(sample: Image, code: int) -> None:
    burst = [Status(code, retry_after="0")] * 3
    options = replace(QUICK, connections=1, patience=6.0)
    with Crooked(dict(sample.files), first(None, *burst)) as server:
        assert right_or_named(sample, server, options) is None


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected_in_both_its_forms(sample: Image, form: str) -> None:
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3))
    wish = Status(429, retry_after="2" if form == "seconds" else stamp)
    with Crooked(dict(sample.files), first(wish)) as server:
        options = replace(QUICK, connections=1, patience=10.0)
        assert right_or_named(sample, server, options) is None
    assert 1.9 <= server.requests[1].time - server.requests[0].time < 5


# --- manifests that a trusted key signed and that are wrong all the same ---


@many
@given(
    st.integers(0, 18),
    st.sampled_from(["offset", "length", "at", "stored"]),
    st.integers(-(1 << 20), 1 << 40).filter(bool),
)
@example(0, "offset", 1)
@example(3, "at", -1)
@example(3, "length", 1 << 40)
def test_chunks_that_overlap_leave_a_gap_or_are_too_large_are_refused_by_name(
    sample: Image, number: int, field: str, by: int
) -> None:
    content: dict[str, Any] = json.loads(sample.files["image.json"])
    content["chunks"][number][field] += by
    document = json.dumps(content).encode()
    files = {"x.json": document, "x.json.sig": sample.key.sign(document)}
    with Crooked(files) as server, pytest.raises(PlanError) as caught:
        get_manifest([server.url("x.json")], [sample.key.public], QUICK)
    # The chunk that is wrong, or its neighbour, or the sums: always a place, always a value.
    assert all(problem.where and problem.message for problem in caught.value.problems)
    assert any("chunks[" in p.where or p.where.endswith("size") for p in caught.value.problems)


@many
@given(st.integers(0, 18))
def test_a_chunk_left_out_is_refused_by_name(sample: Image, number: int) -> None:
    content: dict[str, Any] = json.loads(sample.files["image.json"])
    del content["chunks"][number]
    document = json.dumps(content).encode()
    files = {"x.json": document, "x.json.sig": sample.key.sign(document)}
    with Crooked(files) as server, pytest.raises(PlanError, match=r"leaves a|must be|last chunk"):
        get_manifest([server.url("x.json")], [sample.key.public], QUICK)


def peak() -> int:
    """Return the most memory this process had since `forget_peak`, in bytes (proc(5))."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def bomb(kind: str) -> bytes:
    """Return a small frame that would be large, or says so."""
    zeros = bytes(1 << 30 if kind != "window" else 1 << 20)
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    if kind == "unstated":
        return unsized.compress(zeros)
    if kind == "honest":
        return zstandard.compress(zeros)
    if kind == "frames":
        return zstandard.compress(bytes(SMALL)) + zstandard.compress(zeros)
    if kind == "window":  # RFC 8878 §3.1.1.1.2: 2 GiB of window for a frame of nothing
        return (
            b"\x28\xb5\x2f\xfd"
            + bytes([0x40, 21 << 3])
            + bytes([(SMALL - 256) & 0xFF, (SMALL - 256) >> 8])
            + bytes([1, 0, 0])
        )
    # "liar": states SMALL bytes, and its blocks hold a GiB.
    frame = bytearray(zstandard.compress(zeros))
    assert frame[4] >> 6 == 2, "the content size is four bytes long"
    at = 5 if frame[4] & 0x20 else 6
    frame[at : at + 4] = SMALL.to_bytes(4, "little")
    return bytes(frame)


@pytest.mark.parametrize("kind", ["unstated", "honest", "frames", "window", "liar"])
def test_a_zstd_bomb_is_a_named_failure_and_takes_no_memory(sample: Image, kind: str) -> None:
    frame = bomb(kind)
    chunk = Chunk(0, SMALL, 0, len(frame), sha256(frame).hexdigest())
    manifest = sample.manifest.model_copy(
        update={
            "size": SMALL,
            "payload": sample.manifest.payload.model_copy(update={"size": len(frame)}),
            "chunks": (chunk,),
        }
    )
    before = forget_peak()
    with Crooked({PAYLOAD: frame}) as server, pytest.raises(ImageError) as caught:
        streamed(sample, server.url(PAYLOAD), manifest=manifest)
    assert "chunk 0 (bytes from 0 of 65536): its frame " in str(caught.value)
    assert peak() - before < 24 << 20


# --- media ---


def test_a_medium_that_is_pulled_out_is_a_named_failure(sample: Image, tmp_path: Path) -> None:
    medium = tmp_path / "run media" / "stick"
    medium.mkdir(parents=True)
    for name, content in sample.files.items():
        (medium / name).write_bytes(content)
    url = (medium / "image.json").as_uri()
    manifest, source = get_manifest([url], [sample.key.public], QUICK)
    pieces = stream(manifest, source, QUICK)
    came = bytes(next(pieces))
    (medium / PAYLOAD).unlink()  # every chunk opens the file anew: nothing of it is kept
    began = time.monotonic()
    with pytest.raises(ImageError) as caught:
        came += b"".join(map(bytes, pieces))
    assert time.monotonic() - began < QUICK.patience + SLACK
    assert f"{(medium / PAYLOAD).as_uri()}: cannot be read: No such file" in str(caught.value)
    assert sample.raw.startswith(came)


def test_a_medium_that_cannot_be_read_is_left_for_a_mirror(sample: Image, tmp_path: Path) -> None:
    broken = tmp_path / PAYLOAD
    broken.mkdir()  # read(2) of a directory fails, as that of a bad sector does
    tally = Tally()
    with Crooked(dict(sample.files)) as server:
        urls = [broken.as_uri(), server.url(PAYLOAD)]
        assert streamed(sample, *urls, tally=tally) == sample.raw
    assert tally.received[urls[0]] == 0


def test_a_medium_with_a_bad_sector_is_corrupt_by_name(sample: Image, tmp_path: Path) -> None:
    spoiled = bytearray(sample.payload)
    spoiled[random.Random(1).randrange(len(spoiled) // 2)] ^= 1
    path = tmp_path / PAYLOAD
    path.write_bytes(spoiled)
    tally = Tally()
    with (
        Crooked(dict(sample.files), always(Status(404))) as server,
        pytest.raises(ImageError) as caught,
    ):
        streamed(sample, path.as_uri(), server.url(PAYLOAD), tally=tally)
    assert f"{path.as_uri()}: sent bytes " in str(caught.value)
    assert tally.corrupt == {path.as_uri(): 2}


def test_a_manifest_is_written_as_it_is_read(sample: Image) -> None:
    """The mutations above start from what `encode` would write; else they would prove nothing."""
    assert encode(sample.manifest) == sample.files["image.json"]
