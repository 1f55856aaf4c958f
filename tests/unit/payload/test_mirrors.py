"""Which mirror is asked next."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.payload.mirrors import (
    PROBE_EVERY,
    SLOW,
    WRONG_ANSWERS,
    Mirrors,
    NoMirrorError,
    NoRangesError,
)
from agent.payload.trouble import Corrupt, Passing, Unranged, Wrong

NONE: Counter[str] = Counter()


def names(mirrors: Mirrors, count: int = 1, corrupt: Counter[str] = NONE) -> list[str]:
    return [mirrors.pick(corrupt).url for _ in range(count)]


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_speeds(**speeds: float) -> tuple[Mirrors, Clock]:
    """Return mirrors that were each asked once and had these speeds."""
    clock = Clock()
    mirrors = Mirrors.of(list(speeds))
    mirrors.clock = clock
    for mirror in mirrors.all:
        assert mirrors.pick(NONE) is mirror  # each has its turn before one has its second
        mirrors.measured(mirror, round(speeds[mirror.url] * 1000), 1000)
    return mirrors, clock


def test_the_only_mirror_is_asked_as_long_as_it_is_well() -> None:
    assert names(Mirrors.of(["a", "a"]), 3) == ["a", "a", "a"]


def test_mirrors_of_the_same_speed_take_turns_in_the_order_given() -> None:
    mirrors, _ = with_speeds(a=7e6, b=7e6, c=7e6)
    assert "".join(names(mirrors, 9)) == "abcabcabc"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.5, 1.0), min_size=1, max_size=5))
def test_work_is_shared_in_proportion_to_speed(parts: list[float]) -> None:
    mirrors, _ = with_speeds(**{f"m{number}": 1e6 * part for number, part in enumerate(parts)})
    if min(parts) < SLOW * max(parts) + 0.01:
        return  # the next test's case
    asked = Counter(names(mirrors, 200))
    for number, part in enumerate(parts):
        assert abs(asked[f"m{number}"] - 200 * part / sum(parts)) <= 2


def test_a_mirror_much_slower_than_another_is_only_probed_and_taken_back_when_it_recovers() -> None:
    mirrors, clock = with_speeds(slow=1e5, fast=1e7)
    assert set(names(mirrors, 500)) == {"fast"}
    clock.now += PROBE_EVERY + 0.1
    assert names(mirrors, 3) == ["slow", "fast", "fast"]
    for _ in range(40):
        clock.now += PROBE_EVERY + 0.1
        assert names(mirrors) == ["slow"]
        mirrors.measured(mirrors.all[0], 10**10, 1000)
        if "slow" in names(mirrors, 4):
            break
    else:
        raise AssertionError("never taken back")
    assert clock.now < 1000 + 8 * PROBE_EVERY


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.booleans()), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
def test_nothing_starves_whatever_the_speeds_are(
    speeds: list[tuple[float, bool]], seed: int
) -> None:
    """Every mirror that is well is asked in any PROBE_EVERY seconds with work for all of them."""
    chance, clock = random.Random(seed), Clock()
    mirrors = Mirrors.of([str(number) for number in range(len(speeds))])
    mirrors.clock = clock
    last = {mirror.url: clock.now for mirror in mirrors.all}
    for _ in range(400):
        clock.now += 1.0
        mirror = mirrors.pick(NONE)
        last[mirror.url] = clock.now
        speed, known = speeds[int(mirror.url)]
        if known:
            mirrors.measured(mirror, int(speed * chance.uniform(0.5, 1.5)), 1.0)
        assert clock.now - min(last.values()) <= PROBE_EVERY + 2 * len(speeds) + 2


def test_a_frame_of_a_few_bytes_says_nothing_of_a_mirror_s_speed() -> None:
    mirrors = Mirrors.of(["a", "b"])
    a, b = mirrors.pick(NONE), mirrors.pick(NONE)
    mirrors.measured(a, 155, 0.01)  # 15 kB/s, and all of it the way there and back
    mirrors.measured(b, 1 << 20, 0.1)
    assert a.speed is None
    assert mirrors.pick(NONE) is a  # it is asked for another chunk at once
    mirrors.measured(a, 1 << 20, 0.1)
    assert Counter(names(mirrors, 10)) == Counter(a=5, b=5)
    mirrors.measured(a, 155, 0.01)
    assert a.speed == b.speed


def test_a_mirror_that_comes_back_from_a_rest_gets_its_share_and_not_what_it_missed() -> None:
    mirrors, clock = with_speeds(a=1e6, b=1e6)
    mirrors.failed(mirrors.all[0], Passing("busy", rest=50), clock.now)
    assert set(names(mirrors, 300)) == {"b"}
    clock.now += 60
    assert Counter(names(mirrors, 20)) in (Counter(a=10, b=10), Counter(a=11, b=9))


def test_the_rival_of_a_mirror_is_the_fastest_other_one_that_could_be_asked_now() -> None:
    mirrors, clock = with_speeds(a=1e6, b=5e6, c=3e6)
    a, b, c = mirrors.all
    assert mirrors.rival(a, NONE) == 5e6
    assert mirrors.rival(b, NONE) == 3e6
    assert mirrors.rival(a, Counter(b=2)) == 3e6
    mirrors.failed(b, Passing("busy", rest=50), clock.now)
    assert mirrors.rival(a, NONE) == 3e6
    mirrors.failed(c, Corrupt("flipped"), clock.now)
    assert mirrors.rival(a, NONE) == 0


def test_a_mirror_that_failed_rests_while_another_is_asked() -> None:
    mirrors = Mirrors.of(["a", "b"])
    mirrors.failed(mirrors.pick(NONE), Passing("broke"), time.monotonic())
    assert names(mirrors, 2) == ["b", "b"]
    mirrors.failed(mirrors.pick(NONE), Passing("busy", rest=50), time.monotonic())
    with pytest.raises(Passing, match="rests"):
        mirrors.pick(NONE)
    assert 0 < mirrors.nap(NONE) < 1
    time.sleep(mirrors.nap(NONE))
    assert names(mirrors) == ["a"]


def test_a_mirror_that_asked_to_be_left_alone_is() -> None:
    mirrors = Mirrors.of(["a"])
    mirrors.failed(mirrors.all[0], Passing("busy", rest=50), time.monotonic())
    assert 50 < mirrors.nap(NONE) < 51


def test_rests_grow_and_differ_so_that_machines_do_not_come_back_as_one() -> None:
    naps = []
    for _ in range(20):
        mirrors = Mirrors.of(["a"])
        for _ in range(5):
            mirrors.failed(mirrors.all[0], Passing("broke"), time.monotonic())
        naps.append(mirrors.nap(NONE))
    assert all(1.9 < nap <= 4 for nap in naps)
    assert len({round(nap, 2) for nap in naps}) > 5


def test_one_incident_seen_by_several_connections_counts_once() -> None:
    mirrors = Mirrors.of(["a"])
    began = time.monotonic()
    for _ in range(20):
        mirrors.failed(mirrors.all[0], Wrong("is not there"), began)
    assert mirrors.all[0].failures == 1
    assert not mirrors.all[0].dropped


def test_a_mirror_that_goes_on_with_wrong_answers_is_dropped() -> None:
    mirrors = Mirrors.of(["a", "b"])
    for _ in range(WRONG_ANSWERS):
        mirrors.failed(mirrors.all[0], Wrong("is not there"), time.monotonic())
    time.sleep(0.01)
    assert mirrors.all[0].dropped
    assert names(mirrors) == ["b"]
    for _ in range(WRONG_ANSWERS):
        mirrors.failed(mirrors.all[1], Wrong("is not there"), time.monotonic())
    with pytest.raises(NoMirrorError):
        mirrors.pick(NONE)
    with pytest.raises(NoMirrorError):
        mirrors.nap(NONE)


def test_a_delivery_forgives_earlier_failures() -> None:
    mirrors = Mirrors.of(["a"])
    for _ in range(3):
        mirrors.failed(mirrors.all[0], Wrong("is not there"), time.monotonic())
    mirrors.delivered(mirrors.all[0], 100)
    mirrors.failed(mirrors.all[0], Wrong("is not there"), time.monotonic())
    assert not mirrors.all[0].dropped
    assert mirrors.all[0].received == 100


def test_a_mirror_with_a_bad_chunk_comes_last_and_is_asked_for_it_twice_at_most() -> None:
    mirrors = Mirrors.of(["a", "b"])
    mirrors.failed(mirrors.all[0], Corrupt("flipped"), time.monotonic())
    assert names(mirrors) == ["b"]
    assert names(mirrors, corrupt=Counter(b=1)) == ["a"]
    assert names(mirrors, corrupt=Counter(a=1, b=1)) == ["b"]
    assert names(mirrors, corrupt=Counter(a=1, b=2)) == ["a"]
    with pytest.raises(NoMirrorError):
        mirrors.pick(Counter(a=2, b=2))


def test_mirrors_without_ranges_are_used_only_when_no_other_is_left_and_then_in_sequence() -> None:
    mirrors = Mirrors.of(["a", "b"])
    mirrors.failed(mirrors.all[0], Unranged("whole"), time.monotonic())
    assert names(mirrors) == ["b"]
    mirrors.failed(mirrors.all[1], Unranged("whole"), time.monotonic())
    with pytest.raises(NoRangesError):
        mirrors.pick(NONE)
    mirrors.sequential = True
    assert names(mirrors) == ["a"]
