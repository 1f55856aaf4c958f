"""What the bench leaves behind for readers: the table in docs/performance.md and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.rows import Row

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def number(value: float | None) -> str:
    """Return three digits that matter: 2.62, 12.6, 580."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| row | ours | peer | ratio | asked | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = f"{number(row.ours)} {row.unit}{_range(row.ours_range)}"
        peer = f"{number(row.peer)} {row.unit}{_range(row.peer_range)}"
        cells = (
            _cell(row.row),
            ours,
            f"{peer} ({_cell(row.against)})",
            number(row.ratio),
            number(row.goal),
            verdict(row),
        )
        lines.append(f"| {' | '.join(cells)} |")
        if row.beside:
            shown = ", ".join(f"{name} {number(value)}" for name, value in row.beside.items())
            lines.append(f"| … beside it | {shown} | | | | |")
    return "\n".join(lines)


def verdict(row: Row) -> str:
    if row.ok is None:
        return f"not compared: {_cell(row.why)}"
    if row.why:
        return f"missed: {_cell(row.why)}"
    return "ok" if row.ok else "missed"


def rewrite(document: Path, rows: Sequence[Row], heading: str) -> None:
    """Put the table between the two markers of a document."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document}: has no lines {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n{heading}\n\n{table(rows)}\n{END}{after}")


def _range(values: tuple[float, float] | None) -> str:
    if values is None or values[0] == values[1]:
        return ""
    return f" [{number(values[0])}–{number(values[1])}]"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
