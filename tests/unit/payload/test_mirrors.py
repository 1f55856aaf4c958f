"""Which mirror is asked next."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from agent.payload.mirrors import WRONG_ANSWERS, Mirrors, NoMirrorError, NoRangesError
from agent.payload.trouble import Corrupt, Passing, Unranged, Wrong

NONE: Counter[str] = Counter()


def names(mirrors: Mirrors, count: int = 1, corrupt: Counter[str] = NONE) -> list[str]:
    return [mirrors.pick(corrupt).url for _ in range(count)]


def test_the_first_mirror_is_asked_as_long_as_it_is_well() -> None:
    assert names(Mirrors.of(["a", "b", "a"]), 3) == ["a", "a", "a"]


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
