"""A plot of the table, as SVG: a bar for each row, as long as its ratio is of its goal."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.bench.document import number
from tests.bench.rows import Row

_LABEL, _BARS, _NOTE = 400, 330, 150
_LINE, _TOP = 24, 44
_MOST = 3.0
"""Where the axis ends, in goals: a longer bar is cut there, its number says how long it is."""
_FONT = 'font-family="sans-serif" font-size="12" role="img"'
_DASHED = 'stroke="#333333" stroke-dasharray="4 3"'
_COLOURS = {True: "#2f7d4f", False: "#b3352d", None: "#8a8f98"}


def svg(rows: Sequence[Row], heading: str) -> str:
    """Return the plot. The line at 1 is the goal; a bar that reaches it is green."""
    width, height = _LABEL + _BARS + _NOTE, _TOP + _LINE * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_FONT}>',
        f"<title>{escape(heading)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(8, 20, heading, weight="bold"),
    ]
    for place, row in enumerate(rows):
        parts += _bar(row, _TOP + place * _LINE)
    goal = _x(1.0)
    bottom = _TOP + _LINE * len(rows)
    parts += [
        f'<line x1="{goal}" x2="{goal}" y1="{_TOP - 8}" y2="{bottom}" {_DASHED}/>',
        _text(goal, bottom + 16, "goal", anchor="middle"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(row: Row, top: int) -> list[str]:
    reached = 0.0 if row.ratio is None else row.ratio / row.goal
    length = round(_x(min(reached, _MOST)) - _LABEL, 1)
    note = "not compared" if row.ratio is None else f"{number(row.ratio)} of {number(row.goal)}"
    end = _LABEL + length + 6
    size = f'width="{length}" height="{_LINE - 8}"'
    return [
        _text(_LABEL - 8, top + 14, row.row, anchor="end"),
        f'<rect x="{_LABEL}" y="{top + 3}" {size} fill="{_COLOURS[row.ok]}"/>',
        _text(end, top + 14, note),
    ]


def _x(goals: float) -> float:
    return round(_LABEL + goals / _MOST * _BARS, 1)


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )
