"""A check list as plain ASCII lines, for serial consoles, pipes and log files."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from agent.report.checklist import Checklist, Line
from agent.report.event import RUN_STEP, Event, State
from agent.report.summary import Tone, summary
from agent.report.text import amount, duration, plain, plain_lines

PROGRESS_SECONDS = 5.0
PROGRESS_SHARE = 0.1
WIDTH = 78
_BARS = {Tone.TITLE_GOOD: "=", Tone.TITLE_BAD: "!"}


class PlainConsole:
    """Writes `[  12.3s] encrypt: started: …`; progress every 5 s or 10 %, whichever is sooner."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._steps = Checklist()
        self._told = ("", 0.0, 0.0)  # step, when, share

    def __call__(self, event: Event) -> None:
        line = self._steps.update(event)
        if line:
            self._step(line)
        elif event.is_last:
            self._end(event)
        elif event.step == RUN_STEP and event.message:
            self._write(f"{plain(event.message)} ({self._steps.expected} steps)")

    def _step(self, line: Line) -> None:
        name = plain(line.name, limit=60, ascii_only=True)
        if line.state is State.STARTED:
            self._told = (line.name, self._clock(), 0.0)
            self._write(
                f"{name}: started: {line.title}" if line.title != line.name else f"{name}: started"
            )
        elif line.state is State.PROGRESS:
            self._progress(name, line)
        else:
            took = duration(line.seconds) if line.seconds is not None else "?"
            word = "finished in" if line.state is State.FINISHED else "FAILED after"
            moved = f", {_moved(line)}" if line.done and line.unit else ""
            self._write(f"{name}: {word} {took}{moved}")
            for text in plain_lines(line.message, ascii_only=True) if line.message else []:
                self._write(f"{name}: {text}")

    def _progress(self, name: str, line: Line) -> None:
        step, when, share = self._told
        now, reached = self._clock(), line.share or 0.0
        soon = step == line.name and now - when < PROGRESS_SECONDS
        if soon and reached - share < PROGRESS_SHARE:
            return
        self._told = (line.name, now, reached)
        left = f", {duration(line.left)} left" if line.left is not None else ""
        percent = f"{reached:4.0%} " if line.share is not None else ""
        self._write(f"{name}: {percent}{_moved(line)}{left}")

    def _end(self, event: Event) -> None:
        lines: list[str] = []
        for tone, text in summary(event, self._steps):
            bar = [_BARS[tone] * WIDTH] if tone in _BARS else []
            lines += [*bar, f"  {text}" if bar else text, *bar]
        self._stream.write("".join(plain(line, ascii_only=True) + "\n" for line in lines))
        self._stream.flush()

    def _write(self, text: str) -> None:
        elapsed = self._clock() - self._began
        self._stream.write(f"[{elapsed:7.1f}s] {plain(text, ascii_only=True)}\n")
        self._stream.flush()


def _moved(line: Line) -> str:
    """Return `1.2 GiB of 2.7 GiB, 85.0 MiB/s`."""
    moved = amount(line.done or 0, line.unit)
    if line.total:
        moved += f" of {amount(line.total, line.unit)}"
    return f"{moved}, {amount(line.rate, line.unit)}/s" if line.rate else moved
