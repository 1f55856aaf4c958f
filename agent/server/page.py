"""The fleet page: one row a machine, no script, everything from outside shown as text."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable
from string import Template

from agent.report.checklist import Checklist
from agent.report.event import State
from agent.report.text import amount, counted, duration, plain
from agent.server.events import Row

REFRESH = 2
"""Seconds between two loads of the page."""
ROWS_LIMIT = 2000
# Even if a hostile string got through the escaping, nothing of it could run or load.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="$refresh">
<title>Bedplate: $installed of $count installed</title>
<style>
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem }
h1 { font-size: 1.2rem; margin: 0 0 .2rem }
table { border-collapse: collapse; width: 100%; margin-top: 1rem }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem }
th, td { border-bottom: 1px solid #8884 }
th { font-weight: 600; opacity: .7 }
td { overflow-wrap: anywhere }
td.figure { white-space: nowrap; font-variant-numeric: tabular-nums }
progress { width: 9rem; accent-color: #2a7ade }
small { opacity: .7 }
.installed { color: #1a8f3c } .failed { color: #d3322c } .silent { color: #b8860b }
</style>
</head>
<body>
<h1>Bedplate</h1>
<p>$machines: $installed installed, $running running, $failed failed, $waiting waiting.</p>
<table>
<thead><tr><th>Machine</th><th>State</th><th>Step</th><th>Progress</th><th>Heard</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
</body>
</html>
""")
_ROW = Template(
    "<tr><td>$name<br><small>$plan</small></td><td class='$state'>$state</td>"
    "<td>$step</td><td class='figure'>$bar</td><td class='figure'>$heard</td></tr>"
)
SILENT = 60.0
"""Seconds without a word after which a running machine is shown as silent."""


def render(rows: Iterable[Row], now: float | None = None) -> str:
    """Return the page; `now` is in Unix seconds."""
    now = time.time() if now is None else now
    shown = list(rows)
    counts = {"installed": 0, "failed": 0, "waiting": 0}
    lines: list[str] = []
    for row in shown:
        state = _state(row, now)
        if state in counts:
            counts[state] += 1
        if len(lines) < ROWS_LIMIT:
            lines.append(_row(row, state, now))
    return _PAGE.substitute(
        refresh=REFRESH,
        count=len(shown),
        machines=counted(len(shown), "machine"),
        running=len(shown) - sum(counts.values()),
        rows="\n".join(lines),
        **counts,
    )


def _state(row: Row, now: float) -> str:
    if row.log is None:
        return "waiting"
    steps = row.log.checklist
    if steps.last:
        return "installed" if steps.last.state is State.FINISHED else "failed"
    if row.log.installed and not steps.current:
        return "installed"  # the first boot has reported, in a run of its own
    return "silent" if now - row.log.heard > SILENT else "running"


def _row(row: Row, state: str, now: float) -> str:
    steps = row.log.checklist if row.log else Checklist()
    name = (row.file.hostname if row.file else "") or steps.machine or row.plan
    return _ROW.substitute(
        name=_text(name),
        plan=_text(row.plan),
        state=state,
        step=_step(steps),
        bar=_bar(steps),
        heard=f"{duration(now - row.log.heard)} ago" if row.log else "",
    )


def _step(steps: Checklist) -> str:
    if steps.last:
        return _text(steps.last.message)
    if steps.failed and not steps.current:
        return _text(f"{steps.failed.title}: {steps.failed.message}")
    total = max(steps.expected, len(list(steps)))
    count = f"<br><small>{steps.finished} of {total} steps</small>" if total else ""
    return (_text(steps.current.title) if steps.current else "") + count


def _bar(steps: Checklist) -> str:
    line = steps.current
    if line is None or line.done is None:
        return ""
    moved = amount(line.done, line.unit) + (
        f" of {amount(line.total, line.unit)}" if line.total else ""
    )
    rate = f", {amount(line.rate, line.unit)}/s" if line.rate else ""
    value = f' value="{line.share:.3f}"' if line.share is not None else ""
    return f"<progress{value}></progress><br><small>{_text(moved + rate)}</small>"


def _text(text: str) -> str:
    return html.escape(plain(text, limit=400))
