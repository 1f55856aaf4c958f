"""How the bench judges: medians, ratios, goals, and what it says of what it could not compare."""

from __future__ import annotations

import json

import pytest

from tests.bench.rows import (
    Asked,
    Figures,
    Row,
    below,
    equal,
    less_is_better,
    missed,
    more_is_better,
    to_json,
)

ASKED = Asked("disk image", 4.0, "s", "bmaptool 3.9")
NONE = Figures((), "bmaptool: not to be had")


def test_the_ratio_is_of_the_medians_so_one_slow_round_does_not_decide() -> None:
    row = less_is_better(ASKED, Figures((2.0, 9.0, 2.5)), Figures((10.0, 11.0, 50.0)))
    assert (row.ours, row.peer, row.ratio) == (2.5, 11.0, 4.4)
    assert row.ours_range == (2.0, 9.0)
    assert row.rounds == 3


@pytest.mark.parametrize(("peer", "ok"), [(8.0, True), (7.99, False)])
def test_a_ratio_that_just_reaches_its_goal_is_enough(peer: float, ok: bool) -> None:
    assert less_is_better(ASKED, Figures((2.0,)), Figures((peer,))).ok is ok


def test_where_more_is_better_the_ratio_is_ours_over_the_peers() -> None:
    row = more_is_better(Asked("wire", 0.95), Figures((114.0,)), Figures((120.0,)))
    assert (row.ratio, row.ok) == (0.95, True)


@pytest.mark.parametrize(("ours", "peer"), [(90.0, 100.0), (100.0, 90.0)])
def test_likeness_is_judged_in_both_directions(ours: float, peer: float) -> None:
    row = equal(Asked("RSS", 0.9), Figures((ours,)), Figures((peer,)))
    assert (row.ratio, row.ok) == (0.9, True)
    assert not equal(Asked("RSS", 0.91), Figures((ours,)), Figures((peer,))).ok


def test_a_limit_holds_for_the_worst_round_and_not_for_the_median() -> None:
    limit = Asked("RSS", 1.0)
    row = below(limit, Figures((50.0, 64.0, 51.0)), 64.0)
    assert (row.ours, row.ok) == (64.0, False)
    assert below(limit, Figures((50.0, 63.9, 51.0)), 64.0).ok


def test_a_peer_that_is_missing_is_a_row_without_a_verdict_that_says_why() -> None:
    row = less_is_better(ASKED, Figures((2.0,)), NONE)
    assert (row.ours, row.peer, row.ratio, row.ok) == (2.0, None, None, None)
    assert row.why == "bmaptool: not to be had"
    assert missed([row]) == []


def test_what_is_missing_of_ours_fails_the_bench() -> None:
    rows = [
        less_is_better(ASKED, Figures((), "exited with status 1"), Figures((10.0,))),
        less_is_better(ASKED, Figures((), "exited with status 1"), NONE),
        below(ASKED, Figures((), "exited with status 1"), 64.0),
    ]
    assert missed(rows) == rows
    assert {row.why for row in rows} == {"bedplate: exited with status 1"}


def test_only_rows_below_their_goal_are_missed() -> None:
    good = less_is_better(ASKED, Figures((1.0,)), Figures((9.0,)))
    bad = less_is_better(ASKED, Figures((1.0,)), Figures((3.0,)))
    assert missed([good, bad]) == [bad]


def test_the_json_is_a_list_with_the_keys_that_were_promised() -> None:
    rows = [less_is_better(ASKED, Figures((2.0,)), Figures((9.0,))), below(ASKED, NONE, 64.0)]
    read = json.loads(to_json(rows))
    assert isinstance(read, list)
    assert {"row", "ours", "peer", "ratio", "goal", "ok"} <= read[0].keys() & read[1].keys()
    assert (read[0]["ratio"], read[0]["ok"]) == (4.5, True)
    assert (read[1]["ratio"], read[1]["ok"]) == (None, False)


def test_a_measurement_of_zero_is_no_triumph() -> None:
    row = less_is_better(ASKED, Figures((0.0,)), Figures((9.0,)))
    assert row.ok is False
    assert isinstance(row, Row)
    assert json.loads(to_json([row]))[0]["ratio"] is None
