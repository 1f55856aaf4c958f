"""One machine in a terminal: its steps with durations, why it failed, the log, the layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.report.text import duration, plain, plain_lines, progress
from agent.watch.rows import BAD, GOOD, MARKS, PROOFS, STYLES, left

LOG_LINES = 20
_MARKS = {"finished": ("✓", "green"), "failed": ("✗", "bold red"), "": ("·", "dim")}


def card(found: Mapping[str, Any]) -> RenderableType:
    """Return `GET /v1/fleet/ID` as text."""
    return Group(*_parts(found, found["now"]))


def _parts(found: Mapping[str, Any], now: float) -> Iterator[RenderableType]:
    state = found["state"]
    head = Text(plain(found["name"], limit=100), style="bold")
    head.append(f"  {MARKS.get(state, '?')} {plain(state, limit=20)}", STYLES.get(state, ""))
    yield head.append(f"  {plain(found['machine'], limit=100)}  {found['id']}", "dim")
    if facts := tuple(_facts(found, now)):
        yield Text("  ").join(facts)
    run = _run_to_show(found["runs"])
    if run is None:
        yield Text("nothing was heard of it yet", style="dim")
        return
    yield from _why(found, run)
    yield Text()
    yield _steps([step for each in _told(found["runs"], run) for step in each["steps"]])
    yield from _lines("Log", found["log"][-LOG_LINES:])
    yield from _lines("Layout", found["picture"])


def _run_to_show(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the newest run that is more than a first boot that sealed."""
    installs = [run for run in runs if any(step["name"] != "seal" for step in run["steps"])]
    return next(iter(installs or runs), None)


def _told(runs: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield run
    for each in runs:
        if each is not run and all(step["name"] == "seal" for step in each["steps"]):
            yield each


def _facts(found: Mapping[str, Any], now: float) -> Iterator[Text]:
    if time := left(found, now):
        yield Text(time if found["state"] == "installed" else f"{time} left")
    if found["heard"] is not None:
        yield Text(f"heard {duration(now - found['heard'])} ago")
    for name in PROOFS:
        word = found[name]
        if word:
            style = "green" if word in GOOD else "bold red" if word in BAD else ""
            yield Text(f"{name} ").append(plain(word, limit=40), style)
    if found["policy"]:
        yield Text(plain(found["policy"], limit=80), style="dim")


def _why(found: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[RenderableType]:
    if found["state"] != "failed":
        return
    yield Text()
    for line in plain_lines(run["message"] or found["message"]):
        yield Text(line, style="red")
    for line in run["advice"]:
        yield Text(f"- {plain(line)}")


def _steps(steps: Sequence[Mapping[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    for step in steps:
        mark, style = _MARKS.get(step["state"], ("▸", "bright_blue"))
        title = Text(plain(step["title"] or step["name"], limit=300))
        if not step["state"]:
            title.stylize("dim")
        took = duration(step["seconds"]) if step["seconds"] is not None else ""
        if not took and step["done"] is not None:
            took = plain(progress(step["done"], step["total"], step["unit"]), limit=40)
        table.add_row(Text(mark, style), title, took)
    return table


def _lines(title: str, lines: Sequence[str]) -> Iterator[RenderableType]:
    if lines:
        yield Text()
        yield Text(title, style="bold")
        for line in lines:
            yield Text(plain(line), style="dim", no_wrap=True, overflow="ellipsis")
