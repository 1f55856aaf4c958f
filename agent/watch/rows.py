"""The fleet as a table for a terminal of any width; every text from elsewhere as plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from agent.report.text import amount, counted, duration, plain, progress
from agent.watch.feed import CONNECTING, Seen
from agent.watch.wish import STATES, Machine, Wish

STYLES = {
    "failed": "bold red",
    "silent": "yellow",
    "running": "bright_blue",
    "waiting": "dim",
    "installed": "green",
}
MARKS = {"failed": "✗", "silent": "●", "running": "●", "waiting": "○", "installed": "✓"}
GOOD = frozenset({"whole", "proven", "sealed"})
PROOFS = ("mirror", "unlock", "seal")
BAD = frozenset({"degraded", "not proven", "failed"})


def screen(seen: Seen, wish: Wish, now: float, width: int, height: int | None) -> RenderableType:
    """Return the table, at most `height` lines of it; `now` is in Unix seconds by our clock."""
    machines = list(seen.machines.values())
    chosen = wish.chosen(machines)
    room = len(chosen) if height is None else max(1, height - 3 - bool(seen.lost))
    shown = chosen[:room]
    parts: list[RenderableType] = [_head(machines, now + seen.skew)]
    if seen.lost:
        why = f"no connection: {plain(seen.lost, limit=80)}; trying again"
        lost = f" {seen.lost if seen.lost == CONNECTING else why} "
        parts.append(Text(lost, style="reverse red", no_wrap=True, overflow="ellipsis"))
    parts.append(_table(shown, now + seen.skew, width))
    left_out = len(chosen) - len(shown)
    notes = [f"{left_out} more below; --filter and --state narrow it"] if left_out else []
    if len(chosen) < len(machines):
        notes.append(f"{len(chosen)} of {len(machines)} shown")
    if notes:
        parts.append(Text("; ".join(notes), style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _head(machines: Sequence[Machine], now: float) -> Text:
    count = Counter(each["state"] for each in machines)
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(counted(len(machines), "machine"), "bold")
    for state in STATES:
        if count[state]:
            head.append("  ").append(f"{MARKS[state]} {count[state]} {state}", STYLES[state])
    if etas := [each["eta"] for each in machines if each["eta_of"] == "run"]:
        head.append(f"  running ones done in {_short(max(0, max(etas) - now))}", "dim")
    return head


def _table(machines: Sequence[Machine], now: float, width: int) -> Table:
    longest = max((len(_name(each)) for each in machines), default=0)
    columns = _columns(width, max(7, min(longest, width // 3)))
    table = Table(
        *(Column(title, **shape) for title, shape, _ in columns),  # type: ignore[arg-type]  # a column's own fields
        box=None,
        pad_edge=False,
        expand=True,
        header_style="dim",
    )
    for each in machines:
        table.add_row(*(cell(each, now) for _, _, cell in columns))
    return table


Cell = Callable[[Machine, float], RenderableType]


def _columns(width: int, name: int) -> list[tuple[str, dict[str, object], Cell]]:
    """Return title, shape and content of the columns that this many letters have room for."""
    tight: dict[str, object] = {"no_wrap": True, "overflow": "ellipsis"}
    columns: list[tuple[str, dict[str, object], Cell]] = [
        ("Machine", {**tight, "width": name}, lambda each, _: Text(_name(each))),
        ("State", {**tight, "width": 11}, _state),
    ]
    if width >= 66:
        columns.append(("Step", {**tight, "ratio": 1, "min_width": 14}, _step))
    if width >= 105:
        columns.append(("", {"width": 10}, _bar))
    columns.append(("", {**tight, "width": 4, "justify": "right"}, _percent))
    if width >= 150:
        columns.append(("Done", {**tight, "width": 22}, _done))
    if width >= 125:
        columns.append(("Rate", {**tight, "width": 11, "justify": "right"}, _rate))
    if width >= 48:
        columns.append(("Left", {**tight, "width": 14, "justify": "right"}, _left))
    if width >= 84:
        columns.append(("Heard", {**tight, "width": 8, "justify": "right"}, _heard))
    if width >= 180:
        shape = {**tight, "width": 11}
        columns += [(each.capitalize(), shape, _proof(each)) for each in PROOFS]
    elif width >= 96:
        columns.append(("MUS", {**tight, "width": 3}, _proofs))
    return columns


def _name(machine: Machine) -> str:
    return plain(machine["name"], limit=100)


def _state(machine: Machine, _: float) -> Text:
    state = machine["state"]
    return Text(f"{MARKS.get(state, '?')} {plain(state, limit=20)}", STYLES.get(state, ""))


def _step(machine: Machine, _: float) -> Text:
    count = f"{machine['finished']}/{machine['steps']} " if machine["steps"] else ""
    if machine["state"] == "installed":
        return Text("")
    text = Text(count, style="dim")
    if machine["message"]:
        return text.append(plain(machine["message"], limit=300), "red")
    return text.append(plain(machine["step"], limit=300), "default")


def _bar(machine: Machine, _: float) -> RenderableType:
    share = machine["share"]
    if share is None or machine["state"] in ("installed", "waiting"):
        return Text("")
    style = STYLES.get(machine["state"], "")
    return ProgressBar(
        total=1, completed=share, complete_style=style, finished_style=style, style="dim"
    )


def _percent(machine: Machine, _: float) -> Text:
    share = machine["share"]
    known = share is not None and machine["state"] not in ("installed", "waiting")
    return Text(f"{share:.0%}" if known else "")


def _done(machine: Machine, _: float) -> Text:
    if machine["done"] is None or machine["state"] == "installed":
        return Text("")
    return Text(plain(progress(machine["done"], machine["total"], machine["unit"]), limit=40))


def _rate(machine: Machine, _: float) -> Text:
    return Text(f"{amount(machine['rate'], machine['unit'])}/s" if machine["rate"] else "")


def _left(machine: Machine, now: float) -> Text:
    return Text(left(machine, now), style="dim" if machine["state"] == "installed" else "")


def left(machine: Machine, now: float) -> str:
    """Return how long it will take yet, or how long it took."""
    if machine["state"] == "installed" and machine["took"] is not None:
        return f"took {_short(machine['took'])}"
    if machine["eta"] is None:
        return ""
    text = _short(max(0.0, machine["eta"] - now))
    return text if machine["eta_of"] == "run" else f"step {text}"


def _heard(machine: Machine, now: float) -> Text:
    if machine["heard"] is None:
        return Text("")
    style = STYLES["silent"] if machine["state"] == "silent" else ""
    return Text(_age(now - machine["heard"]), style)


def _short(seconds: float) -> str:
    return duration(round(seconds)).replace(".0 s", " s")


def _age(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h" if whole < 172_800 else f"{whole // 86_400} days"


def _proof(name: str) -> Cell:
    return lambda machine, _: Text(plain(machine[name], limit=20), _tone(machine[name]))


def _tone(word: str) -> str:
    return "green" if word in GOOD else "bold red" if word in BAD else ""


def _proofs(machine: Machine, _: float) -> Text:
    """Return mirror, unlock and seal as one sign each."""
    text = Text()
    for name in PROOFS:
        word = machine[name]
        sign = "✓" if word in GOOD else "✗" if word in BAD else "·" if not word else "~"
        text.append(sign, _tone(word) or "dim")
    return text
