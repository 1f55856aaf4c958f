"""The fleet page as the server writes it: every row there is, readable without any script.

The script (`web/`) takes over from there. Everything from outside is text: escaped here, given to
`textContent` there; and the policy lets nothing run or load that is not a file of ours.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable
from string import Template

from agent.report.text import amount, counted, duration, progress
from agent.server.overview import STATES, Entry, totals

REFRESH = 5
"""Seconds between two loads where there is no script."""
ROWS_LIMIT = 2000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
COLUMNS = (
    ("name", "Machine"),
    ("state", "State"),
    ("step", "Step"),
    ("share", "Progress"),
    ("rate", "Rate"),
    ("eta", "Time left"),
    ("heard", "Heard"),
    ("mirror", "Mirror"),
    ("unlock", "Unlock"),
    ("seal", "Seal"),
)
"""What rows are sorted by, and what the column is called."""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Bedplate: $installed of $machines installed</title>
<noscript><meta http-equiv="refresh" content="$refresh"></noscript>
<link rel="icon" href="static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="static/fleet.css">
<script type="module" src="static/fleet.js"></script>
</head>
<body>
<header class="top">
<h1>Bedplate</h1>
<p id="sentence">$sentence</p>
<p id="link" role="status"></p>
$logout</header>
<section id="roll-out" aria-label="Roll-out" hidden>
<div id="totals" role="group" aria-label="Show only machines that are"></div>
<figure id="timeline"></figure>
</section>
<form id="find" role="search" hidden>
<input id="filter" type="search" autocomplete="off" spellcheck="false" maxlength="200"
 aria-label="Filter" placeholder="Filter by any text">
<label id="order-label">Sort by <select id="order"></select></label>
<p id="shown" role="status"></p>
<p id="keys"><kbd>/</kbd> filter <kbd>↑</kbd><kbd>↓</kbd> move <kbd>Enter</kbd> open
<kbd>Esc</kbd> close</p>
</form>
<main>
<table id="fleet">
<thead><tr>$heads</tr></thead>
<tbody id="rows">
$rows
</tbody>
</table>
<p id="nothing" hidden></p>
</main>
<aside id="detail" aria-label="Machine" hidden></aside>
</body>
</html>
""")
_LOGOUT = '<form method="post" action="logout"><button>Log out</button></form>'
_ROW = Template(
    '<tr class="$state"><td class="name"><a href="v1/fleet/$id">$name</a><small>$machine</small>'
    '</td><td class="state">$state</td><td class="step">$step</td><td class="share">$bar</td>'
    '<td class="rate">$rate</td><td class="eta">$eta</td><td class="heard">$heard</td>'
    '<td class="mirror">$mirror</td><td class="unlock">$unlock</td><td class="seal">$seal</td></tr>'
)


def render(entries: Iterable[Entry], now: float | None = None, *, logged_in: bool = False) -> str:
    """Return the page; `now` is in Unix seconds, `logged_in` is true for who can log out."""
    now = time.time() if now is None else now
    shown = sorted(entries, key=lambda each: (STATES.index(each.state), each.name))
    counts = totals(shown)
    return _PAGE.substitute(
        refresh=REFRESH,
        machines=counts["machines"],
        installed=counts["installed"],
        sentence=_sentence(counts),
        logout=_LOGOUT if logged_in else "",
        heads="".join(f'<th scope="col" data-by="{by}">{name}</th>' for by, name in COLUMNS),
        rows="\n".join(_row(each, now) for each in shown[:ROWS_LIMIT]),
    )


def _sentence(counts: dict[str, int]) -> str:
    machines = counted(counts["machines"], "machine")
    states = ", ".join(f"{counts[state]} {state}" for state in reversed(STATES) if counts[state])
    return f"{machines}: {states}." if states else f"{machines}."


def _row(each: Entry, now: float) -> str:
    return _ROW.substitute(
        id=html.escape(each.id),
        name=html.escape(each.name),
        machine=html.escape(each.machine if each.machine != each.name else ""),
        state=each.state,
        step=_step(each),
        bar=_bar(each),
        rate=html.escape(f"{amount(each.rate, each.unit)}/s") if each.rate else "",
        eta=_time(each, now),
        heard=f"{duration(now - each.heard)} ago" if each.heard is not None else "",
        mirror=each.mirror,
        unlock=each.unlock,
        seal=each.seal,
    )


def _step(each: Entry) -> str:
    parts = [html.escape(each.step)] if each.step else []
    if each.message:
        parts.append(f"<em>{html.escape(each.message)}</em>")
    if count := _count(each):
        parts.append(f"<small>{html.escape(count)}</small>")
    return "".join(parts)


def _count(each: Entry) -> str:
    """Return how far it is, in steps and in what the step counts."""
    if each.state == "installed":
        return ""
    parts = [f"{each.finished} of {each.steps} steps"] if each.steps else []
    if each.done is not None:
        parts.append(progress(each.done, each.total, each.unit))
    return ", ".join(parts)


def _bar(each: Entry) -> str:
    if each.share is None or each.state in ("waiting", "installed"):
        return ""
    return f'<progress value="{each.share:.3f}"></progress>'


def _time(each: Entry, now: float) -> str:
    if each.ended is not None and each.took is not None:
        return f"took {duration(each.took)}"
    if each.eta is None:
        return ""
    left = duration(each.eta - now)
    return left if each.eta_of == "run" else f"step: {left}"
