"""Several mirrors at once: who is asked how much, and who is left when another is faster."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.payload.client import origin
from agent.payload.fetch import Source
from agent.payload.options import FetchOptions
from agent.payload.stream import Tally, stream
from tests.adapters.crooked import Crooked, Rate, Stall, Trickle, always, mirrors
from tests.unit.payload.images import DEBIAN, SMALL, Image, files, image

PAYLOAD = "image.tar.zst"
CALM = FetchOptions(connections=4, stall=2.0, request=20.0, patience=30.0)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image of some 70 chunks that do not compress."""
    noise = random.Random(11).randbytes(70 * SMALL)
    raw = files({"etc/os-release": DEBIAN, "usr/bin/noise": noise})
    return image(tmp_path_factory.mktemp("image"), raw)


def fetched(
    long: Image, servers: Sequence[Crooked], options: FetchOptions = CALM
) -> tuple[list[float], float, list[str]]:
    """Stream the image; return each server's part of the bytes, the seconds, and the warnings."""
    told: list[str] = []
    urls = tuple(server.url(PAYLOAD) for server in servers)
    source = Source(urls[0], "", "", urls, frozenset(map(origin, urls)))
    tally, began = Tally(), time.monotonic()
    options = replace(options, warn=told.append)
    content = b"".join(map(bytes, stream(long.manifest, source, options, tally)))
    seconds = time.monotonic() - began
    assert content == long.raw
    total = sum(tally.received.values())
    return [tally.received[url] / total for url in urls], seconds, told


def test_two_mirrors_share_the_work_in_proportion_to_their_speeds(long: Image) -> None:
    one = Crooked(dict(long.files), always(Rate(1_000_000)))
    two = Crooked(dict(long.files), always(Rate(1_500_000)))
    with mirrors(one, two):
        parts, _, told = fetched(long, [one, two])
    assert told == []
    assert 0.28 < parts[0] < 0.5 < parts[1] < 0.72, parts  # 0.4 and 0.6


def test_two_mirrors_of_the_same_speed_are_together_faster_than_one_that_is_at_its_limit(
    long: Image,
) -> None:
    two = [Crooked(dict(long.files), always(Rate(1_500_000))) for _ in range(2)]
    with mirrors(*two):
        parts, _, _ = fetched(long, two)
    assert 0.35 < parts[0] < 0.65, parts


def test_a_mirror_ten_times_slower_does_not_hold_up_the_stream(long: Image) -> None:
    slow = Crooked(dict(long.files), always(Rate(500_000, piece=1024)))
    fast = Crooked(dict(long.files), always(Rate(5_000_000)))
    with mirrors(slow, fast):
        parts, seconds, _ = fetched(long, [slow, fast])
        _, alone, _ = fetched(long, [fast])
    assert 0 < parts[0] < 0.2, parts  # 0.09, were there nothing else on this machine
    assert seconds < 2 * alone + 1.5  # and not ten times as long


@pytest.mark.parametrize("fault", [Trickle(after=60), Stall(60)], ids=str)
def test_a_trickle_is_left_for_a_mirror_that_is_faster_long_before_it_is_given_up(
    long: Image, fault: Trickle | Stall
) -> None:
    bad, good = Crooked(dict(long.files), always(fault)), Crooked(dict(long.files))
    options = replace(CALM, stall=8.0, request=30.0)
    with mirrors(bad, good):
        parts, seconds, told = fetched(long, [bad, good], options)
    assert parts == [0, 1]
    assert seconds < 6.0  # a quarter of the stall, and not the thirty seconds of a request
    assert any("another mirror is faster" in line for line in told), told
    assert all(line.startswith(f"{bad.url(PAYLOAD)}: brought ") for line in told), told


def test_the_only_mirror_may_be_as_slow_as_it_likes_within_the_patience(long: Image) -> None:
    with Crooked(dict(long.files), always(Rate(400_000))) as server:
        parts, _, told = fetched(long, [server], replace(CALM, connections=10, stall=1.2))
    assert parts == [1]
    assert told == []
