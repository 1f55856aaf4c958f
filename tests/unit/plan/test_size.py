from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan.size import (
    LARGEST,
    Percent,
    SizeCondition,
    about,
    parse_bytes,
    parse_condition,
    parse_size,
    render,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1 B", 1),
        ("4KiB", 4096),
        ("20 GiB", 20 << 30),
        ("1.5 TiB", 3 << 39),
        ("64 kB", 64_000),
        ("400 GB", 400 * 10**9),
        ("0.5 kB", 500),
        (21474836480, 20 << 30),
    ],
)
def test_a_size_is_read_as_bytes(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ten GiB", '"ten GiB" is not a size: write it as "20 GiB"'),
        ("20 gib", "is not a size"),
        ("20 KB", "is not a size"),
        ("20G", "is not a size"),
        ("-5 GiB", "is not a size"),
        ("5  GiB", "is not a size"),
        ("٣ GiB", "is not a size"),
        ("", '"" is not a size'),
        ("1.5 B", '"1.5 B" is not a whole number of bytes'),
        ("0 GiB", "0 GiB is not a size: it must be above 0"),
        (-1, "-1 is not a size: it must be above 0 and at most 1048576 TiB"),
        (LARGEST + 1, "at most 1048576 TiB"),
        ("9999999999999999999 TiB", "at most 1048576 TiB"),
        (True, "true is not a size"),
        (1.5, "1.5 is not a size"),
        (None, "empty is not a size"),
        (["20 GiB"], "a list is not a size"),
    ],
)
def test_what_is_no_size_is_named_with_what_would_be_right(text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        parse_size(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "points"), [("40%", "40"), ("12.5 %", "12.5"), ("0.01%", "0.01"), ("100%", "100")]
)
def test_a_percentage_is_a_share(text: str, points: str) -> None:
    assert parse_size(text) == Percent(Decimal(points))


@pytest.mark.parametrize("text", ["0%", "100.01%", "101%", "-1%", "1.234%", "%", "40 percent"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a s"):
        parse_size(text)


def test_a_share_is_rounded_down_to_whole_bytes() -> None:
    assert Percent(Decimal("33.33")).of(1000) == 333
    assert Percent(Decimal(100)).of(LARGEST) == LARGEST


@pytest.mark.parametrize(
    ("text", "holds", "fails"),
    [
        (">= 400 GB", 400 * 10**9, 400 * 10**9 - 1),
        (">1 GiB", (1 << 30) + 1, 1 << 30),
        ("< 2 TB", 1, 2 * 10**12),
        ("<=   2 TB", 2 * 10**12, 2 * 10**12 + 1),
        ("= 5 B", 5, 6),
        ("== 5 B", 5, 4),
    ],
)
def test_a_condition_compares_bytes(text: str, holds: int, fails: int) -> None:
    condition = parse_condition(text)
    assert condition.holds(holds)
    assert not condition.holds(fails)
    assert parse_condition(str(condition)) == condition


@pytest.mark.parametrize("text", ["400 GB", "", 400, None, ">= 40%", "~ 5 GB", "=> 5 GB", ">="])
def test_what_is_no_condition_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not a (condition|size)"):
        parse_condition(text)


@given(st.integers(1, LARGEST))
def test_a_rendered_size_is_exactly_that_size(size: int) -> None:
    assert parse_bytes(render(size)) == size


@given(st.decimals("0.01", "100", places=2))
def test_a_rendered_share_is_exactly_that_share(points: Decimal) -> None:
    assert parse_size(render(Percent(points))) == Percent(points)


@pytest.mark.parametrize(
    ("size", "exact", "short"),
    [
        (20 << 30, "20 GiB", "20 GiB"),
        (400 * 10**9, "400 GB", "372.53 GiB"),
        (1_000_001, "1000001 B", "976.56 KiB"),
        (1 << 40, "1 TiB", "1 TiB"),
        (32 * 10**9, "32 GB", "29.8 GiB"),
        (7, "7 B", "7 B"),
    ],
)
def test_sizes_are_shown_exactly_or_for_people(size: int, exact: str, short: str) -> None:
    assert (render(size), about(size)) == (exact, short)


def test_a_condition_shows_as_it_was_written() -> None:
    assert str(SizeCondition(">=", 400 * 10**9)) == ">= 400 GB"
