from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from agent.report.checklist import Checklist
from agent.report.console import is_live, open_console
from agent.report.event import Event, State
from agent.report.liveconsole import LiveConsole
from agent.report.plainconsole import PlainConsole
from tests.unit.report.receivers import HandClock, event

PRINTABLE = re.compile(r"[ -~\n]*")
EVIL = "chunk 4\x1b]0;evil\x07\x9b2J\u202e"


def story(reason: str = "") -> list[Event]:
    """Return the events of a short run: the second of three steps fails for `reason`, if given."""
    steps = [{"name": "encrypt", "title": "Encrypt /dev/md1"}, {"name": "image", "title": "Write"}]
    steps += [{"name": "prove", "title": "Prove"}]
    told = [
        event(1, step="install", total=3, message="Install", evidence={"steps": steps}),
        event(2, step="encrypt", message="Encrypt /dev/md1"),
        event(3, State.FINISHED, step="encrypt", evidence={"seconds": 12.3}),
        event(4, step="image", message="Write"),
    ]
    if reason:
        log = {"log": ["tar: a line", f"tar: {EVIL}"], "seconds": 3.0}
        return [
            *told,
            event(5, State.FAILED, step="image", message=reason, evidence=log),
            event(6, State.FAILED, step="install", message=reason, evidence=log),
        ]
    report = {"disks": [{"serial": "CZ1", "size": 2**34}], "unlock": {"tang": True}}
    return [
        *told,
        event(5, State.PROGRESS, step="image", done=2**30, total=2**31, unit="bytes", rate=2.0**20),
        event(6, State.FINISHED, step="image", done=2**31, total=2**31, unit="bytes", rate=2.0**20),
        event(7, State.FINISHED, step="install", evidence={"report": report, "seconds": 372}),
    ]


def plainly(events: list[Event]) -> str:
    stream, hands = io.StringIO(), HandClock()
    console = PlainConsole(stream, clock=hands.clock().monotonic)
    for each in events:
        hands.pass_(1.5)
        console(each)
    return stream.getvalue()


def test_a_serial_console_gets_one_ascii_line_an_event() -> None:
    lines = plainly(story()).splitlines()
    assert lines[:6] == [
        "[    1.5s] Install (3 steps)",
        "[    3.0s] encrypt: started: Encrypt /dev/md1",
        "[    4.5s] encrypt: finished in 12.3 s",
        "[    6.0s] image: started: Write",
        "[    7.5s] image:  50% 1.0 GiB of 2.0 GiB, 1.0 MiB/s, 17 min 04 s left",
        "[    9.0s] image: finished in ?, 2.0 GiB of 2.0 GiB, 1.0 MiB/s",
    ]


def test_the_end_of_a_good_run_shows_what_is_installed() -> None:
    shown = plainly(story())
    assert "INSTALLED: 52:54:00:12:34:56 after 6 min 12 s" in shown
    assert re.search(r"disks\[0\]\.serial +CZ1\n", shown)
    assert re.search(r"disks\[0\]\.size +17179869184 \(16\.0 GiB\)\n", shown)
    assert re.search(r"unlock\.tang +yes\n", shown)


def test_a_run_that_found_nothing_to_install_says_so() -> None:
    report = {"report": {"state": "already installed"}, "seconds": 3}
    shown = plainly([event(1, State.FINISHED, step="install", evidence=report)])
    assert "  ALREADY INSTALLED: 52:54:00:12:34:56 after 3.0 s\n" in shown


def test_the_end_of_a_bad_run_shows_what_failed_why_the_log_and_what_to_do() -> None:
    shown = plainly(story("root: needs 20 GiB\nvar: needs 5 GiB"))
    parts = ["What failed\n  Write", "Why\n  root: needs 20 GiB\n  var: needs 5 GiB"]
    parts += ["tar: a line", "What to do next\n  - "]
    what, why, log, advice = (shown.index(part) for part in parts)
    assert what < why < log < advice
    assert "NOT INSTALLED" in shown


def test_hostile_text_cannot_steer_a_serial_console() -> None:
    shown = plainly(story(EVIL))
    assert PRINTABLE.fullmatch(shown)
    assert "chunk 4\\x1b]0;evil\\x07\\x9b2J\\u202e" in shown


@pytest.mark.parametrize(
    ("step_seconds", "share", "most"), [(0.2, 1 / 1000, 42), (0.001, 1 / 1000, 12), (10, 0.5, 4)]
)
def test_progress_on_a_serial_console_comes_every_5_s_or_10_percent(
    step_seconds: float, share: float, most: int
) -> None:
    stream, hands = io.StringIO(), HandClock()
    console = PlainConsole(stream, clock=hands.clock().monotonic)
    console(event(1, step="image", message="Write"))
    count = round(1 / share)
    for number in range(1, count + 1):
        hands.pass_(step_seconds)
        console(event(number + 1, State.PROGRESS, step="image", done=number, total=count))
    lines = stream.getvalue().splitlines()
    assert 2 < len(lines) <= most + 1 or len(lines) == count + 1
    assert len(lines) <= 1 + most


class Terminal:
    """A pseudo-terminal; `screen` is what was written to it, without its escape sequences."""

    def __init__(self, columns: int) -> None:
        self.reader, writer = pty.openpty()
        tty.setraw(writer)
        self.stream: TextIO = os.fdopen(writer, "w", encoding="utf-8")
        tty_size = (25).to_bytes(2, "little") + columns.to_bytes(2, "little") + bytes(4)
        fcntl.ioctl(writer, termios.TIOCSWINSZ, tty_size)
        os.set_blocking(self.reader, False)

    def raw(self) -> str:
        self.stream.flush()
        parts = []
        while True:
            try:
                parts.append(os.read(self.reader, 65536))
            except BlockingIOError:
                return b"".join(parts).decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self.reader)


@pytest.fixture(params=[80, 120])
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    opened = Terminal(request.param)
    yield opened
    opened.close()


def lively(terminal: Terminal, events: list[Event], term: str = "xterm-256color") -> str:
    hands = HandClock()
    console = LiveConsole(terminal.stream, term, clock=hands.clock().monotonic)
    for each in events:
        hands.pass_(1.5)
        console(each)
        console.tick()
    console.close(1)
    return terminal.raw()


def without_escapes(raw: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)


def test_a_terminal_gets_a_check_list_with_bars(terminal: Terminal) -> None:
    shown = without_escapes(lively(terminal, story()))
    assert re.search(r"✓ Encrypt /dev/md1 +12\.3 s", shown)
    assert re.search(r"● Write +━+─+ +50% +1\.0 MiB/s +~?17 min 04 s( left)? +1\.5 s", shown)
    assert "2 of 3 steps" in shown
    assert "INSTALLED: 52:54:00:12:34:56 after 6 min 12 s" in shown


def test_no_line_of_the_check_list_wraps(terminal: Terminal) -> None:
    width = os.get_terminal_size(terminal.stream.fileno()).columns
    long = event(1, step="image", message="Write " + "für " * 100)
    moving = event(
        2, State.PROGRESS, step="image", done=10**9, total=10**12, unit="bytes", rate=9e8
    )
    done = event(3, State.FINISHED, step="image", evidence={"seconds": 1e5})
    shown = without_escapes(lively(terminal, [long, moving, done]))
    assert "Write für" in shown
    assert max(len(line) for line in re.split(r"[\r\n]+", shown)) < width


def test_hostile_text_cannot_steer_a_terminal(terminal: Terminal) -> None:
    raw = lively(terminal, [event(1, step="x", message=EVIL), *story(EVIL)])
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202e]", raw)
    # What is left of the escape character are the console's own sequences: colour, cursor, erase.
    assert re.sub(r"\x1b\[(\?25[hl]|[0-9;]*m|\d*[AK]|2K)", "", raw).count("\x1b") == 0
    assert "chunk 4\\x1b]0;evil\\x07\\x9b2J" in without_escapes(raw)


def test_the_cursor_is_given_back(terminal: Terminal) -> None:
    raw = lively(terminal, story())
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")


def test_the_kernels_own_console_gets_only_glyphs_its_font_has(terminal: Terminal) -> None:
    shown = without_escapes(lively(terminal, story(), term="linux"))
    shown.encode("cp437")
    assert "√ Encrypt /dev/md1" in shown


def test_redrawing_takes_a_small_part_of_the_time(terminal: Terminal) -> None:
    now = [0.0]

    def slow_clock() -> float:
        now[0] += 0.05  # every look at the clock costs 50 ms: a machine under emulation
        return now[0]

    console = LiveConsole(terminal.stream, "xterm", clock=slow_clock)
    console(event())
    assert console.tick() >= 1.0
    console.close(1)


def test_serial_lines_pipes_and_dumb_terminals_are_not_redrawn(
    terminal: Terminal, tmp_path: Path
) -> None:
    assert is_live(terminal.stream, "xterm-256color")
    assert not is_live(terminal.stream, "dumb")
    assert not is_live(terminal.stream, "")
    assert not is_live(terminal.stream, "vt220")
    with (tmp_path / "log").open("w") as file:
        assert not is_live(file, "xterm-256color")
    assert not is_live(io.StringIO(), "xterm-256color")


def test_several_consoles_show_the_same_run_each_in_its_way(
    terminal: Terminal, tmp_path: Path
) -> None:
    with (tmp_path / "ttyS0").open("w+") as serial:
        sinks = [open_console(serial, "vt220"), open_console(terminal.stream, "xterm")]
        for each in story():
            for sink in sinks:
                sink(each)
        for sink in sinks:
            sink.close(5)
        serial.seek(0)
        assert "encrypt: finished in 12.3 s\n" in serial.read()
    assert re.search(r"✓ Encrypt /dev/md1 +12\.3 s", without_escapes(terminal.raw()))


def test_a_run_that_starts_over_starts_a_new_check_list() -> None:
    steps = Checklist()
    for each in story("no"):
        steps.update(each)
    steps.update(event(1, run="run-2", step="find", message="Find the plan"))
    assert [line.title for line in steps] == ["Find the plan"]
    assert steps.last is None


def test_a_hostile_run_of_endless_steps_does_not_grow_the_check_list() -> None:
    steps = Checklist()
    for number in range(1, 1000):
        steps.update(event(number, step=f"step-{number}"))
    assert len(list(steps)) == 200


def test_a_terminal_that_is_stuck_can_still_be_closed(terminal: Terminal) -> None:
    """Nobody reads the other end: the writer blocks, and closing the stream would wait for it."""
    sink = open_console(terminal.stream, "dumb")
    for seq in range(1, 200):
        sink(event(seq, State.FAILED, message="x" * 1000))
    sink.close(0.1)
    closing = threading.Thread(target=terminal.stream.close, daemon=True)
    closing.start()
    closing.join(5)
    assert not closing.is_alive()
