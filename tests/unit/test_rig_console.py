"""The rig's console: what it shows of a serial line, and how it waits."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu.console import Console
from qemu.errors import GuestPanicError, UnexpectedLineError, WaitTimeoutError


class Line:
    """A serial line with both ends: what a guest sends, and the console that reads it."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.guest, ours = socket.socketpair()
        self.console = Console(ours, log, time.monotonic())

    def show(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.guest.sendall(piece)
            time.sleep(0.01)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "log")
    yield made
    made.guest.close()
    made.console.close()


def test_every_line_of_the_log_begins_with_the_seconds_since_power_on(line: Line) -> None:
    line.show(b"one\r\ntw", b"o\r\n")
    line.console.wait("two", 5)
    assert re.fullmatch(r"\[ +0\.\d\d\] one\n\[ +0\.\d\d\] two\n", line.log.read_text()), (
        line.log.read_text()
    )


def test_colours_and_cursor_movements_are_not_part_of_the_text(line: Line) -> None:
    line.show(
        b"\x1b[2J\x1b[01;01H[\x1b[0;32m  OK  \x1b[0m] Re\x1b", b"[0", b"mached\x1b(B \xe2\x80"
    )
    line.show(b"\xa6\x1b]0;title\x07 end\n")
    line.console.wait("end", 5)
    assert line.console.text == "[  OK  ] Reached … end\n"


def test_a_match_at_the_very_end_waits_for_the_rest_of_it(line: Line) -> None:
    feeder = threading.Thread(target=line.show, args=(b"up 1", b"2", b"3 seconds\n"))
    feeder.start()
    seen = line.console.wait(r"up ([0-9]+)", 5)
    feeder.join()
    assert seen.match.group(1) == "123"
    assert seen.line.startswith("up 123")


def test_a_prompt_without_a_newline_is_seen(line: Line) -> None:
    line.show(b"\r\nPlease enter passphrase for disk cr_root: ")
    seen = line.console.wait("passphrase for disk (\\S+):", 5)
    assert seen.line == "Please enter passphrase for disk cr_root: "
    line.console.send("secret\n")
    assert line.guest.recv(100) == b"secret\n"


def test_what_was_shown_before_the_mark_does_not_count(line: Line) -> None:
    line.show(b"login: ")
    first = line.console.wait("login:", 5)
    with pytest.raises(WaitTimeoutError):
        line.console.wait("login:", 0.3, since=line.console.mark())
    line.show(b"\r\nlogin: ")
    second = line.console.wait("^login:", 5, since=first.end)
    assert second.at > first.at


def test_a_line_start_matches_at_the_mark(line: Line) -> None:
    line.show(b"# ")
    line.console.wait("# ", 5)
    mark = line.console.mark()
    line.show(b"answer\n")
    assert line.console.wait("^answer$", 5, since=mark).line == "# answer"


def test_a_line_that_says_it_will_never_come_ends_the_wait_at_once(line: Line) -> None:
    line.show(b"You are in emergency mode.\n")
    began = time.monotonic()
    with pytest.raises(UnexpectedLineError, match="emergency mode"):
        line.console.wait("login:", 30, unless="emergency mode")
    assert time.monotonic() - began < 5


def test_a_timeout_names_the_pattern_and_shows_the_last_lines(line: Line) -> None:
    line.show(b"".join(b"line %d\n" % number for number in range(100)))
    with pytest.raises(WaitTimeoutError) as caught:
        line.console.wait("never shown", 0.3)
    message = str(caught.value)
    assert "'never shown'" in message
    assert "line 60" in message
    assert "line 59" not in message


def test_the_end_of_the_machine_ends_the_wait(line: Line) -> None:
    line.show(b"reboot: Power down\n")
    line.guest.close()
    with pytest.raises(WaitTimeoutError, match="switched off"):
        line.console.wait("login:", 30)


def test_a_check_that_fails_ends_the_wait(line: Line) -> None:
    def check() -> None:
        raise GuestPanicError("gone")

    with pytest.raises(GuestPanicError, match="gone"):
        line.console.wait("login:", 30, check=check)
