"""What an operator is told while a command fetches."""

from __future__ import annotations

import os
import pty
import sys
from subprocess import Popen

import pytest

from agent.cli.fetching import warner

SCRIPT = """
from agent.cli.bar import bar
from agent.cli.fetching import warner
warn = warner()
with bar("pushing", quiet=False) as progress:
    progress(0, 100)
    warn("the registry is busy")
    progress(100, 100)
"""


def test_a_mishap_is_told_once_however_often_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    warn = warner()
    for message in ("one", "two", "one", "two"):
        warn(message)
    assert capsys.readouterr().err == "bedplate: warning: one\nbedplate: warning: two\n"


def test_a_mishap_has_a_line_of_its_own_above_the_bar() -> None:
    seen = on_a_terminal(SCRIPT)
    before, told, after = seen.partition("bedplate: warning: the registry is busy\r\n")
    assert told, seen
    # The line of the bar is erased first: carriage return, "erase in line" (ECMA-48, EL).
    assert before.endswith("\x1b[2K")
    assert "pushing" in before
    assert "pushing" in after


def on_a_terminal(script: str) -> str:
    """Run a script whose stderr is a terminal of 100 columns; return what the terminal got."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    with Popen([sys.executable, "-c", script], stderr=theirs, env=environment) as program:
        os.close(theirs)
        said = bytearray()
        while True:
            try:
                said += os.read(ours, 65536)
            except OSError:  # EIO: the last one has closed it (pty(7))
                break
    os.close(ours)
    assert program.returncode == 0
    return said.decode()
