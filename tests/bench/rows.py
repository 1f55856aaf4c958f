"""The rows of the table: what was measured, what was asked for, and whether it is enough.

In every row more is better for us: `ratio` must be at least `goal`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median


@dataclass(frozen=True)
class Row:
    """One comparison. `ok` is None, and `why` says the reason, where nothing could be compared.

    `ours` and `peer` are medians in `unit`; the ranges are (least, most) over the rounds. `beside`
    are numbers shown for orientation, without a goal.
    """

    row: str
    ours: float | None
    peer: float | None
    ratio: float | None
    goal: float
    ok: bool | None
    unit: str = "s"
    against: str = ""
    rounds: int = 0
    ours_range: tuple[float, float] | None = None
    peer_range: tuple[float, float] | None = None
    beside: dict[str, float] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Figures:
    """One quantity of one program, a number for each round; or why there is none."""

    values: tuple[float, ...]
    missing: str = ""

    @property
    def middle(self) -> float:
        return float(median(self.values))

    @property
    def range(self) -> tuple[float, float]:
        return min(self.values), max(self.values)


@dataclass(frozen=True)
class Asked:
    """What the table asks of a row: its name, the least ratio, the unit, the peer's name."""

    row: str
    goal: float
    unit: str = "s"
    against: str = ""


def less_is_better(
    asked: Asked, ours: Figures, peer: Figures, beside: dict[str, float] | None = None
) -> Row:
    """Judge seconds or bytes: the ratio is the peer's median over ours."""
    return _judged(asked, ours, peer, lambda our, other: other / our, beside)


def more_is_better(asked: Asked, ours: Figures, peer: Figures) -> Row:
    """Judge speeds, or a bound that we approach from below: the ratio is our median over it."""
    return _judged(asked, ours, peer, lambda our, other: our / other)


def equal(asked: Asked, ours: Figures, peer: Figures) -> Row:
    """Judge likeness: the ratio is the smaller over the larger median, 1.0 when they are equal."""
    return _judged(asked, ours, peer, lambda our, other: min(our, other) / max(our, other))


def below(asked: Asked, ours: Figures, limit: float) -> Row:
    """Judge by a limit that not even the worst round may reach."""
    if not ours.values:
        return _none(asked, ours, Figures((limit,)))
    worst = max(ours.values)
    return Row(
        row=asked.row,
        ours=worst,
        peer=limit,
        ratio=limit / worst,
        goal=asked.goal,
        ok=worst < limit,
        unit=asked.unit,
        against=asked.against,
        rounds=len(ours.values),
        ours_range=ours.range,
    )


def _judged(
    asked: Asked,
    ours: Figures,
    peer: Figures,
    ratio_of: Callable[[float, float], float],
    beside: dict[str, float] | None = None,
) -> Row:
    if not ours.values or not peer.values:
        return _none(asked, ours, peer)
    our, other = ours.middle, peer.middle
    if not our or not other:
        return replace(_none(asked, ours, peer), ok=False, why=f"measured {our} and {other}")
    ratio = ratio_of(our, other)
    return Row(
        row=asked.row,
        ours=our,
        peer=other,
        ratio=ratio,
        goal=asked.goal,
        ok=ratio >= asked.goal,
        unit=asked.unit,
        against=asked.against,
        rounds=len(ours.values),
        ours_range=ours.range,
        peer_range=peer.range,
        beside=beside or {},
    )


def _none(asked: Asked, ours: Figures, peer: Figures) -> Row:
    """Make the row of a comparison that could not be made; that ours is missing is a failure."""
    return Row(
        row=asked.row,
        ours=ours.middle if ours.values else None,
        peer=peer.middle if peer.values else None,
        ratio=None,
        goal=asked.goal,
        ok=None if ours.values else False,
        unit=asked.unit,
        against=asked.against,
        why=f"bedplate: {ours.missing}" if not ours.values else peer.missing,
    )


def missed(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that fail the bench."""
    return [row for row in rows if row.ok is False]


def to_json(rows: Sequence[Row]) -> str:
    """Return build/bench.json: a list of {row, ours, peer, ratio, goal, ok} and more keys."""
    return json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False) + "\n"
