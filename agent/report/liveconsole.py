"""A check list that redraws its running line, by rich. Imported only where a terminal can show it.

Finished steps scroll up as ordinary lines, and only the running step and the total are redrawn: it
works on 25 rows with 40 steps, and what the kernel prints in between is not lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from agent.report.checklist import Checklist, Line
from agent.report.event import Event, State
from agent.report.summary import Tone, summary
from agent.report.text import amount, duration, plain, plain_lines

WIDE = 100
"""Columns from which there is room for a long bar."""
FASTEST = 0.2
SLOWEST = 2.0
SHARE_OF_TIME = 25
"""A redraw that took t seconds is not repeated for 25 t: at most 4 % of one processor."""

_STYLES = {
    Tone.TITLE_GOOD: "bold white on green",
    Tone.TITLE_BAD: "bold white on red",
    Tone.HEADING: "bold",
    Tone.GOOD: "green",
    Tone.BAD: "red",
    Tone.PLAIN: "",
    Tone.FAINT: "dim",
}
# The kernel's own console font has the 256 glyphs of code page 437 (drivers/tty/vt/cp437.uni):
# U+2713 and U+2717 would come out as a box.
_UNICODE = ("✓", "●", "✗", "━", "─")
_LINUX = ("√", "»", "x", "█", "░")
_ASCII = ("+", "*", "x", "#", "-")


class LiveConsole:
    """Shows events on a terminal; `tick` redraws, and says when it wants to be called again."""

    def __init__(
        self, stream: TextIO, term: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._steps = Checklist()
        self._began = self._step_began = clock()
        self._drawn_at = -SLOWEST
        self._pause = FASTEST
        self._glyphs = _glyphs(stream, term)
        self._console = Console(
            file=stream,
            force_terminal=True,
            color_system="standard" if term == "linux" else "auto",
            markup=False,
            emoji=False,
            highlight=False,
            legacy_windows=False,
        )
        self._measure()
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def __call__(self, event: Event) -> None:
        line = self._steps.update(event)
        if line is None:
            if event.is_last:
                self._end(event)
            return
        if line.state is State.STARTED:
            self._step_began = self._clock()
        if line.state in (State.FINISHED, State.FAILED):
            self._console.print(self._line(line))
            for text in plain_lines(line.message) if line.message else []:
                self._console.print(Text(f"    {text}", style=_tone(line.state)))

    def tick(self) -> float:
        """Redraw if it is time; return the seconds until the next redraw."""
        due = self._drawn_at + self._pause - self._clock()
        if due > 0:
            return due
        began = self._clock()
        self._measure()
        self._live.update(self._running(), refresh=True)
        self._drawn_at = self._clock()
        cost = (self._drawn_at - began) * SHARE_OF_TIME
        self._pause = min(SLOWEST, max(FASTEST, cost))
        return self._pause

    def close(self, timeout: float) -> None:
        """Take the running line off the screen and show the cursor again."""
        del timeout
        self._live.update(Text(""), refresh=False)
        self._live.stop()

    def _end(self, event: Event) -> None:
        self._live.update(Text(""), refresh=True)
        width = self._console.width
        for tone, text in summary(event, self._steps):
            title = tone in (Tone.TITLE_GOOD, Tone.TITLE_BAD)
            shown = set_cell_size(f"  {text}", width - 1) if title else text
            self._console.print(Text(shown, style=_STYLES[tone]), soft_wrap=True)

    def _running(self) -> Group | Text:
        if self._steps.last:
            return Text("")
        total = max(self._steps.expected, len(list(self._steps)))
        elapsed = duration(self._clock() - self._began)
        footer = Text(f"  {self._steps.finished} of {total} steps, {elapsed}", style="dim")
        current = self._steps.current
        return Group(self._line(current), footer) if current else footer

    def _line(self, line: Line) -> Text:
        ok, busy, bad, full, empty = self._glyphs
        wide = self._console.width >= WIDE
        bar = 20 if wide else 10
        glyph = {State.FINISHED: ok, State.FAILED: bad}.get(line.state or State.STARTED, busy)
        seconds = self._clock() - self._step_began if line.seconds is None else line.seconds
        figures = _figures(line, wide) + f"{duration(seconds):>{13 if wide else 12}}"
        if line.done is None:
            figures, bar = f"{duration(seconds):>12}", 0
        # One column stays free: a terminal that wraps at the last one would scroll.
        title = max(10, self._console.width - 1 - 2 - bar - 2 - cell_len(figures))
        text = Text(f"{glyph} ", style=_tone(line.state), no_wrap=True, overflow="crop")
        text.append(set_cell_size(plain(line.title, limit=200), title), style="default")
        filled = round((line.share or 0.0) * bar)
        text.append(" " + full * filled, style="green" if line.state is State.FINISHED else "cyan")
        text.append((empty if line.share is not None else " ") * (bar - filled) + " ", style="dim")
        text.append(figures, style="default")
        return text

    def _measure(self) -> None:
        """Take the size of this terminal; rich would take that of the process' own stdin."""
        try:
            width, height = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return
        # A serial or virtual terminal that was never told its size says 0.
        self._console.size = (width or 80, height or 25)


def _figures(line: Line, wide: bool) -> str:
    """Return percentage, rate and time left, in columns that do not jump."""
    known = line.share is not None
    percent = f"{line.share:4.0%}" if known else f"{amount(line.done or 0, line.unit):>10}"
    rate = f"{amount(line.rate, line.unit)}/s" if line.rate and line.unit == "bytes" else ""
    left = ""
    if line.state is State.PROGRESS and line.left is not None:
        left = f"{duration(line.left)} left" if wide else f"~{duration(line.left)}"
    return f"{percent} {rate:>11} {left:>{16 if wide else 12}}"


def _tone(state: State | None) -> str:
    return {State.FINISHED: "green", State.FAILED: "bold red"}.get(state or State.STARTED, "yellow")


def _glyphs(stream: TextIO, term: str) -> tuple[str, str, str, str, str]:
    if (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "") != "utf8":
        return _ASCII
    return _LINUX if term == "linux" else _UNICODE
