"""Streaming from servers that cut, stall, lie and swap.

The right bytes or a named failure, in the time that the options allow.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import ImageError
from agent.payload.client import origin
from agent.payload.fetch import Source, probe
from agent.payload.options import FetchOptions
from agent.payload.stream import AHEAD, Tally, stream
from agent.secret import Secret
from tests.adapters.crooked import (
    Chunked,
    Crooked,
    Cut,
    CutBody,
    Endless,
    Fault,
    Flip,
    Garbage,
    Gzip,
    Html,
    IgnoreRange,
    Redirect,
    Request,
    Retag,
    Script,
    Stall,
    Status,
    Trickle,
    WrongLength,
    WrongRange,
    always,
    first,
    first_apart,
    honest,
    mirrors,
)
from tests.unit.payload.images import Image, image

QUICK = FetchOptions(
    connections=3, connect=1.0, stall=0.3, request=1.0, patience=4.0, warn=lambda message: None
)
SLACK = 6.0
"""Seconds that a loaded test machine may add."""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return image(tmp_path_factory.mktemp("image"))


def source(*servers: Crooked, path: str = "image.tar.zst") -> Source:
    urls = tuple(server.url(path) for server in servers)
    return Source(urls[0], "", "", urls, frozenset(map(origin, urls)))


def received(
    sample: Image, *servers: Crooked, options: FetchOptions = QUICK, tally: Tally | None = None
) -> bytes:
    """Stream the image and return it; every piece is checked against the truth as it comes."""
    content = bytearray()
    for piece in stream(sample.manifest, source(*servers), options, tally):
        assert piece == sample.raw[len(content) : len(content) + len(piece)], len(content)
        content += piece
    return bytes(content)


def failure(sample: Image, *servers: Crooked, options: FetchOptions = QUICK) -> str:
    """Stream the image, which must fail within the options' patience, and return the message."""
    began = time.monotonic()
    with pytest.raises(ImageError) as caught:
        received(sample, *servers, options=options)
    assert time.monotonic() - began < options.patience + SLACK
    return str(caught.value)


def zero_ranges(sample: Image) -> list[tuple[int, int]]:
    return [(c.at, c.at + c.stored) for c in sample.manifest.chunks if c.zero]


def test_an_honest_mirror_is_asked_once_for_each_chunk_that_is_not_zero(sample: Image) -> None:
    tally = Tally()
    with Crooked(dict(sample.files)) as server:
        assert received(sample, server, tally=tally) == sample.raw
    wanted = [(c.at, c.at + c.stored - 1) for c in sample.manifest.chunks if not c.zero]
    assert sorted((r.first, r.last) for r in server.requests) == wanted
    assert all(r.headers["Accept-Encoding"] == "identity" for r in server.requests)
    fetched = sum(c.stored for c in sample.manifest.chunks if not c.zero)
    assert tally == Tally(received={server.url("image.tar.zst"): fetched}, corrupt={})


def test_a_view_is_gone_when_the_next_one_is_asked_for(sample: Image) -> None:
    with Crooked(dict(sample.files)) as server:
        pieces = stream(sample.manifest, source(server), QUICK)
        kept = next(pieces)
        next(pieces)
        with pytest.raises(ValueError, match="released memoryview"):
            bytes(kept)


def test_a_usb_medium_is_read_as_a_mirror_is(sample: Image, tmp_path: Path) -> None:
    path = tmp_path / "image with spaces.tar.zst"
    path.write_bytes(sample.payload)
    there = Source("", "", "", (path.as_uri(),), frozenset())
    assert b"".join(map(bytes, stream(sample.manifest, there, QUICK))) == sample.raw
    path.write_bytes(sample.payload[:-1])
    with pytest.raises(ImageError, match=r"has a payload of \d+ bytes, the manifest says"):
        list(stream(sample.manifest, there, QUICK))
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        list(stream(sample.manifest, there, QUICK))


FAULTY: list[Fault] = [
    Cut(0),
    Cut(7),
    Cut(60),
    Cut(150),
    Cut(30_000),
    CutBody(0),
    CutBody(1),
    CutBody(65_000),
    Stall(0),
    Stall(20),
    Stall(10_000),
    Trickle(),
    Trickle(after=500),
    WrongLength(+1),
    WrongLength(-1),
    WrongLength(+1_000_000),
    WrongRange(shift=1),
    WrongRange(shift=-1),
    WrongRange(shift=0, total=7),
    WrongRange(text=""),
    WrongRange(text="bytes */9"),
    WrongRange(text="chapters 1-2/3"),
    Status(500),
    Status(502),
    Status(503),
    Status(503, retry_after="0"),
    Status(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    Status(503, retry_after="soon"),
    Status(429, retry_after="1"),
    Status(404),
    Status(403),
    Status(416),
    Status(204),
    Html(),
    Gzip(),
    Flip(0.0, 0),
    Flip(0.5, 3),
    Flip(1.0, 7),
    Redirect(),
    Redirect("ftp://127.0.0.1/x"),
    Redirect("http://[broken"),
    Garbage(),
    Garbage(b"HTTP/1.1 banana\r\n\r\n"),
    Garbage(b"HTTP/1.1 206 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n"),
    Garbage(b"HTTP/1.1 206 OK\r\nContent-Length: -5\r\n\r\n"),
    Garbage(b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    Garbage(b"HTTP/1.1 100 Continue\r\n\r\n" * 3),
    Endless(),
]


@pytest.mark.parametrize("fault", FAULTY, ids=str)
def test_a_fault_that_passes_costs_time_and_nothing_else(sample: Image, fault: Fault) -> None:
    with Crooked(dict(sample.files), first_apart(None, fault, *[None] * 7, fault)) as server:
        assert received(sample, server) == sample.raw


@pytest.mark.parametrize("fault", FAULTY, ids=str)
def test_a_mirror_that_stays_so_is_left_for_the_next(sample: Image, fault: Fault) -> None:
    tally = Tally()
    bad, good = Crooked(dict(sample.files), always(fault)), Crooked(dict(sample.files))
    with mirrors(bad, good):
        assert received(sample, bad, good, tally=tally) == sample.raw
    assert tally.received[good.url("image.tar.zst")] > 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Cut(0), "broke the connection"),
        (CutBody(1000), "cut the connection after "),
        (Stall(300), "sent no byte for 0.3 s"),
        (Trickle(), "was not done in"),
        (WrongLength(5), "announces "),
        (WrongRange(3), "sends the range 'bytes "),
        (WrongRange(0, 7), "has a payload of 7 bytes, the manifest says"),
        (Status(500), "answered 500 Whatever"),
        (Status(404), "answered 404 Whatever"),
        (Status(503, "2"), "answered 503 Whatever"),
        (Status(416), "has a payload of unknown bytes"),
        (Html(), "answered 200 with 39 bytes of text/html instead of a part of"),
        (Gzip(), "encodes the payload on its way (gzip)"),
        (Flip(), "with sha256"),
        (Redirect(), "redirects in a loop"),
        (Redirect("ftp://x/y"), "redirects to 'ftp://x/y', which is no http or https address"),
        (Garbage(), "broke the connection: "),
        (IgnoreRange(cut=50_000), "cut the connection after"),
    ],
    ids=str,
)
def test_a_fault_that_stays_is_named_with_mirror_and_chunk(
    sample: Image, fault: Fault, said: str
) -> None:
    with Crooked(dict(sample.files), always(fault)) as server:
        message = failure(sample, server)
    assert re.match(rf"image image: chunk \d+ \(bytes from \d+ of {len(sample.raw)}\): ", message)
    assert f"{server.url('image.tar.zst')}: " in message
    assert said in message


def test_two_mirrors_that_fail_are_both_named(sample: Image) -> None:
    one, two = Crooked({}), Crooked(dict(sample.files), always(Gzip()))
    with mirrors(one, two):
        message = failure(sample, one, two)
    assert f"{one.url('image.tar.zst')}: answered 404" in message
    assert f"{two.url('image.tar.zst')}: encodes the payload" in message


def test_a_port_where_nobody_listens_is_a_named_failure(sample: Image) -> None:
    with Crooked({}) as server:
        nowhere = source(server)
    with pytest.raises(ImageError, match="cannot be reached: connection refused"):
        list(stream(sample.manifest, nowhere, replace(QUICK, patience=1.0)))


def chunk_with_noise(sample: Image) -> int:
    """Return a chunk from the middle that does not compress."""
    chunks = sample.manifest.chunks
    return next(n for n, c in enumerate(chunks) if n > 1 and c.stored > 65_000)


def only_chunk(sample: Image, number: int, fault: Fault) -> Script:
    at = sample.manifest.chunks[number].at
    return lambda request: fault if request.first == at else None


def test_a_chunk_that_stays_bad_stops_the_stream_before_a_byte_of_it(sample: Image) -> None:
    number = chunk_with_noise(sample)
    chunk = sample.manifest.chunks[number]
    with Crooked(dict(sample.files), only_chunk(sample, number, Flip(0.7, 2))) as server:
        pieces = stream(sample.manifest, source(server), QUICK)
        came = sum(len(next(pieces)) for _ in range(number))
        with pytest.raises(ImageError) as caught:
            next(pieces)
        asked = [r.headers for r in server.requests if r.first == chunk.at]
    assert came == chunk.offset
    message = str(caught.value)
    assert f"chunk {number} (bytes from {chunk.offset} of" in message
    assert f"sent bytes {chunk.at} to {chunk.at + chunk.stored - 1} with sha256" in message
    assert f"must be {chunk.sha256}" in message
    assert len(asked) == 2
    assert "Cache-Control" not in asked[0]
    assert asked[1]["Cache-Control"] == "no-cache"


def test_a_bad_chunk_comes_from_another_mirror_and_the_bad_one_is_told(sample: Image) -> None:
    told, tally = list[str](), Tally()
    bad, good = Crooked(dict(sample.files), first(Flip())), Crooked(dict(sample.files))
    with mirrors(bad, good):
        options = replace(QUICK, connections=1, warn=told.append)
        assert received(sample, bad, good, options=options, tally=tally) == sample.raw
    assert tally.corrupt == {bad.url("image.tar.zst"): 1}
    assert len(told) == 1
    assert told[0].startswith(f"{bad.url('image.tar.zst')}: sent bytes")
    assert told[0].endswith("(chunk 0)")
    # From then on it comes last, and the other is well.
    assert tally.received[bad.url("image.tar.zst")] == 0


def test_a_connection_cut_in_the_middle_resumes_where_it_broke(sample: Image) -> None:
    number = chunk_with_noise(sample)
    at = sample.manifest.chunks[number].at
    assert sample.manifest.chunks[number].stored > 40_000
    with Crooked(dict(sample.files), only_chunk(sample, number, CutBody(40_000))) as server:
        assert received(sample, server, options=replace(QUICK, connections=1)) == sample.raw
    asked = [r for r in server.requests if at <= r.first <= at + 40_000]
    assert [r.first for r in asked] == [at, at + 40_000]
    # What came is not mixed with what comes: If-Range, and only there (docs/rack-cache.md).
    assert [r for r in server.requests if "If-Range" in r.headers] == asked[1:]


def test_connections_are_kept_for_the_next_chunk(sample: Image) -> None:
    peers: set[int] = set()

    class Noting:
        def commit(self, answer: object, wire: object, server: Crooked) -> None:
            raise AssertionError("never")

    def script(request: Request) -> Fault | None:
        peers.add(threading.get_ident())  # the server has a thread for each connection
        return None

    with Crooked(dict(sample.files), script) as server:
        received(sample, server, options=replace(QUICK, connections=2))
    assert len(server.requests) > 8
    assert len(peers) == 2


def test_an_idle_connection_that_was_closed_is_opened_again_without_a_word(sample: Image) -> None:
    told: list[str] = []

    class Close:
        """Answer honestly, and close the connection though it was to be kept."""

        def commit(self, answer: object, wire: object, server: Crooked) -> None:
            from tests.adapters.crooked import Answer, Wire

            assert isinstance(answer, Answer)
            assert isinstance(wire, Wire)
            wire.send(answer.head + answer.body)
            wire.broken = True

    with Crooked(dict(sample.files), always(Close())) as server:
        options = replace(QUICK, connections=1, warn=told.append)
        assert received(sample, server, options=options) == sample.raw
    assert told == []


@pytest.mark.parametrize("announce", [True, False])
def test_a_server_without_ranges_is_read_once_from_front_to_back(
    sample: Image, announce: bool
) -> None:
    with Crooked(dict(sample.files), always(IgnoreRange(announce=announce))) as server:
        assert received(sample, server) == sample.raw
    assert [r.ranged for r in server.requests[-1:]] == [False]
    assert sum(not r.ranged for r in server.requests) == 1


def test_a_server_without_ranges_that_breaks_is_read_from_the_front_again(sample: Image) -> None:
    cuts = iter([100_000, 300_000, 0])

    def script(request: Request) -> Fault | None:
        return IgnoreRange() if request.ranged else IgnoreRange(cut=next(cuts))

    with Crooked(dict(sample.files), script) as server:
        assert received(sample, server) == sample.raw
    assert sum(not r.ranged for r in server.requests) == 3


def test_a_bad_chunk_of_a_server_without_ranges_is_a_named_failure(sample: Image) -> None:
    spoiled = bytearray(sample.payload)
    spoiled[sample.manifest.chunks[2].at + 9] ^= 4
    with Crooked({"image.tar.zst": bytes(spoiled)}, always(IgnoreRange())) as server:
        message = failure(sample, server)
    assert "chunk 2 " in message
    assert f"must be {sample.manifest.chunks[2].sha256}" in message


def test_a_mirror_without_ranges_waits_behind_one_that_has_them(sample: Image) -> None:
    plain, ranged = Crooked(dict(sample.files), always(IgnoreRange())), Crooked(dict(sample.files))
    tally = Tally()
    with mirrors(plain, ranged):
        assert received(sample, plain, ranged, tally=tally) == sample.raw
    assert tally.received[plain.url("image.tar.zst")] == 0


def swapped(sample: Image) -> bytes:
    """Return another build's payload of the same length: every frame is another's."""
    return bytes(byte ^ 0x55 for byte in sample.payload)


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_swapped_midway_is_noticed(sample: Image, etags: bool) -> None:
    told: list[str] = []
    with Crooked(dict(sample.files)) as server:
        server.etags = etags

        def script(request: Request) -> Fault | None:
            if request.number == 4:
                server.files["image.tar.zst"] = swapped(sample)
            return None

        server.script = script
        message = failure(sample, server, options=replace(QUICK, warn=told.append))
    assert "with sha256" in message
    assert any("replaced the payload while it was read" in line for line in told) == etags


def test_a_file_swapped_for_a_shorter_one_is_named(sample: Image) -> None:
    with Crooked({"image.tar.zst": sample.payload[:-10]}) as server:
        message = failure(sample, server)
    stated = f"has a payload of {len(sample.payload) - 10} bytes, the manifest says"
    assert f"{stated} {len(sample.payload)}" in message


def test_a_farm_whose_servers_disagree_on_the_etag_still_serves(sample: Image) -> None:
    def script(request: Request) -> Fault | None:
        return Retag(f'"{request.number % 2}"') if "If-Range" not in request.headers else None

    with Crooked(dict(sample.files), script) as server:
        assert received(sample, server) == sample.raw


def test_a_weak_etag_is_not_used_for_ranges(sample: Image) -> None:
    with Crooked(dict(sample.files), always(Retag('W/"1"'))) as server:
        assert received(sample, server) == sample.raw
    assert not any("If-Range" in r.headers for r in server.requests)


def test_chunked_coding_is_understood(sample: Image) -> None:
    with Crooked(dict(sample.files), always(Chunked())) as server:
        assert received(sample, server, options=replace(QUICK, connections=1)) == sample.raw


def test_a_redirect_is_followed_and_the_token_stays_at_home(sample: Image) -> None:
    store = Crooked(dict(sample.files))
    with mirrors(store):
        front = Crooked({}, always(Redirect(store.url("image.tar.zst"))))
        with front:
            options = replace(QUICK, token=Secret("s3cret"))
            assert received(sample, front, options=options) == sample.raw
    assert all(r.headers["Authorization"] == "Bearer s3cret" for r in front.requests)
    assert not any("Authorization" in r.headers for r in store.requests)


def test_a_busy_server_is_left_alone_as_long_as_it_asks(sample: Image) -> None:
    with Crooked(dict(sample.files), first(Status(503, retry_after="2"))) as server:
        received(sample, server, options=replace(QUICK, connections=1))
    assert server.requests[1].time - server.requests[0].time >= 2


def test_a_total_time_bounds_the_whole_stream(sample: Image) -> None:
    began = time.monotonic()
    with (
        Crooked(dict(sample.files), always(Trickle())) as server,
        pytest.raises(ImageError, match=r"not there when the 1\.5 s for all were over"),
    ):
        received(sample, server, options=replace(QUICK, total=1.5))
    assert time.monotonic() - began < 1.5 + SLACK


def test_a_slow_reader_is_not_taken_for_a_slow_mirror(sample: Image) -> None:
    with Crooked(dict(sample.files)) as server:
        options = replace(QUICK, patience=1.0, connections=1)
        for number, _ in enumerate(stream(sample.manifest, source(server), options)):
            if number in (1, 9):
                time.sleep(1.5)


def test_closing_the_stream_ends_every_connection_at_once(sample: Image) -> None:
    def all_but_the_first_chunk(request: Request) -> Fault | None:
        whole = not request.path.endswith(".zst")
        return None if whole or request.first == 0 else Stall(100)

    with Crooked(dict(sample.files), all_but_the_first_chunk) as server:
        options = replace(QUICK, stall=60, request=60, patience=60)
        pieces = stream(sample.manifest, source(server), options)
        next(pieces)
        began = time.monotonic()
        pieces.close()
        assert time.monotonic() - began < SLACK
        assert not [t for t in threading.enumerate() if t.name.startswith("fetch")]


def test_a_chunk_is_fetched_at_most_a_few_chunks_ahead(sample: Image) -> None:
    with Crooked(dict(sample.files)) as server:
        pieces = stream(sample.manifest, source(server), replace(QUICK, connections=2))
        next(pieces)
        time.sleep(0.3)
        assert len(server.requests) <= 2 + AHEAD < len(sample.manifest.chunks)
        pieces.close()


def test_probing_tells_which_mirrors_have_the_payload(sample: Image) -> None:
    good, gone = Crooked(dict(sample.files)), Crooked({})
    other = Crooked({"image.tar.zst": sample.payload + b"x"})
    plain = Crooked(dict(sample.files), always(IgnoreRange()))
    with mirrors(good, gone, other, plain):
        probes = probe(sample.manifest, source(good, gone, other, plain), QUICK)
    assert [found.url for found in probes] == [
        server.url("image.tar.zst") for server in (good, gone, other, plain)
    ]
    problems = [found.problem for found in probes]
    assert problems[0] is problems[3] is None
    assert problems[1] == "answered 404 Whatever"
    assert problems[2] is not None
    assert problems[2].startswith("has a payload of")
    assert len(good.requests) == 1


FAULTS: st.SearchStrategy[Fault | None] = st.one_of(
    st.none(),
    st.builds(Cut, st.integers(0, 70_000)),
    st.builds(CutBody, st.integers(0, 65_000)),
    st.builds(Stall, st.integers(0, 70_000)),
    st.builds(Trickle, after=st.integers(0, 70_000)),
    st.builds(WrongLength, st.integers(-70_000, 70_000)),
    st.builds(WrongRange, st.integers(-9, 9), st.sampled_from([None, 1, 1 << 40])),
    st.builds(Status, st.sampled_from([404, 429, 500, 503]), st.sampled_from([None, "0", "1"])),
    st.builds(Flip, st.floats(0, 1), st.integers(0, 7)),
    st.builds(Redirect, st.sampled_from(["", "/", "//", "x", "http://127.0.0.1:1/"])),
    st.builds(Garbage, st.binary(max_size=200)),
    st.builds(Retag, st.sampled_from(['"a"', '"b"', "W/x", ""])),
    st.builds(IgnoreRange, st.sampled_from([0, 1, 5000, 300_000]), st.booleans()),
    st.builds(Chunked, st.integers(1, 99_999)),
    st.sampled_from([Html(), Gzip(), Endless()]),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(FAULTS, max_size=9), st.lists(FAULTS, max_size=9), st.integers(1, 4))
def test_no_run_of_faults_ends_in_wrong_bytes_or_takes_longer_than_stated(
    sample: Image, one: list[Fault | None], two: list[Fault | None], connections: int
) -> None:
    options = replace(QUICK, connections=connections, stall=0.15, request=0.4, total=3.0)
    began = time.monotonic()
    bad, worse = Crooked(dict(sample.files), first(*one)), Crooked(dict(sample.files), first(*two))
    with mirrors(bad, worse):
        try:
            assert received(sample, bad, worse, options=options) == sample.raw
        except ImageError as error:
            assert bad.url("image.tar.zst") in str(error)  # noqa: PT017
    assert time.monotonic() - began < 3.0 + SLACK


def test_faults_named_in_a_script_are_really_committed(sample: Image) -> None:
    """A fault injector that injects nothing would make all of the above pass."""
    seen: list[Request] = []
    script: Callable[[Request], Fault | None] = always(Flip())

    def noting(request: Request) -> Fault | None:
        seen.append(request)
        return script(request)

    with Crooked(dict(sample.files), noting) as server:
        failure(sample, server)
    assert len(seen) >= 2
    assert honest(seen[0]) is None
