"""A serial line of a guest: logged with time stamps, searched while it grows, typed into."""

from __future__ import annotations

import bisect
import codecs
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from qemu.errors import ConnectionLostError, UnexpectedLineError, WaitTimeoutError

# What a terminal acts upon and does not show: CSI, OSC and charset sequences, carriage returns,
# bells and NULs. systemd and OVMF colour, clear and place; the log and the search see plain text.
_UNSEEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]|[\r\x00\x07]"
)
# The beginning of such a sequence whose end has not come yet (so not to be shown or cut in two).
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,300}\x1b?|[ -/]*)?$")

TAIL_LINES = 40

_QUIET = 0.2


@dataclass(frozen=True)
class Sighting:
    """A line that was awaited and came."""

    line: str
    match: re.Match[str]
    at: float
    """Seconds from power-on to the arrival of the line's matched part."""
    end: int
    """Position behind the match: `since` for the next wait."""


class Console:
    """One serial line, on a connected socket; a thread reads it until QEMU ends.

    `log` receives every line as `[seconds since began] text`, plain text, written at once.
    """

    def __init__(self, link: socket.socket, log: Path, began: float, name: str = "console") -> None:
        self.name, self._link, self._began = name, link, began
        self._log = log.open("w", encoding="utf-8", errors="replace")
        self._text = ""
        self._arrivals: list[tuple[int, float]] = []
        self._change = threading.Condition()
        self._ended = False
        self.watchers: list[Callable[[bytes], None]] = []
        """Called from the reading thread with every piece as it came, for a terminal."""
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """Everything shown so far, as plain text."""
        with self._change:
            return self._text

    @property
    def ended(self) -> bool:
        """Whether QEMU has closed the line."""
        with self._change:
            return self._ended

    def mark(self) -> int:
        """Return the present end, to be used as `since`."""
        return len(self.text)

    def tail(self, lines: int = TAIL_LINES) -> str:
        return "\n".join(self.text.splitlines()[-lines:])

    def send(self, text: str) -> None:
        """Type text; a line is entered with a newline."""
        try:
            self._link.sendall(text.encode())
        except OSError as error:
            raise ConnectionLostError(f"{self.name}: QEMU is gone") from error

    def wait(
        self,
        pattern: str | re.Pattern[str],
        timeout: float,
        *,
        since: int = 0,
        unless: str | re.Pattern[str] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Sighting:
        """Wait until the text from `since` on matches `pattern` (re.MULTILINE), at most `timeout`.

        `unless` is a pattern for "it will never come": seen first, it is an UnexpectedLineError.
        `check` is called now and then and may raise. WaitTimeoutError has the last lines.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        unwanted = re.compile(unless, re.MULTILINE) if unless is not None else None
        deadline = time.monotonic() + timeout
        while True:
            with self._change:
                text, size, ended = self._text[since:], len(self._text), self._ended
            # A slice and not search(…, since): there `^` would not match at `since` itself.
            if found := wanted.search(text):
                if self._settled(found, since):
                    return self._sighting(found, since)
                continue
            check()
            if unwanted and (foul := unwanted.search(text)):
                self._fail(UnexpectedLineError, f"came {foul.group()!r} and not", wanted)
            left = deadline - time.monotonic()
            if left <= 0:
                self._fail(WaitTimeoutError, f"within {timeout:g} s there was no", wanted)
            if ended:
                self._fail(
                    WaitTimeoutError, "the machine was switched off, and there was no", wanted
                )
            with self._change:
                if len(self._text) == size and not self._ended:
                    self._change.wait(min(left, 0.5))

    def close(self) -> None:
        """Take what QEMU still left to read, and end; called once QEMU has ended."""
        self._thread.join(5)
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._link.close()
        self._log.close()

    def _settled(self, found: re.Match[str], since: int) -> bool:
        """Tell whether a match at the very end has all it will get: no more text comes after it.

        Otherwise `up ([0-9]+)` would be content with the first digit that arrives.
        """
        if found.end() < len(found.string):
            return True
        end = since + found.end()
        with self._change:
            self._change.wait_for(lambda: self._ended or len(self._text) > end, _QUIET)
            return len(self._text) == end

    def _sighting(self, found: re.Match[str], since: int) -> Sighting:
        start, end = since + found.start(), since + found.end()
        with self._change:
            line = self._text[self._text.rfind("\n", 0, start) + 1 :].split("\n", 1)[0]
            index = bisect.bisect_left(self._arrivals, (end, 0.0))
            at = self._arrivals[min(index, len(self._arrivals) - 1)][1]
        return Sighting(line, found, at, end)

    def _fail(self, kind: type[WaitTimeoutError], why: str, wanted: re.Pattern[str]) -> NoReturn:
        raise kind(f"{self.name}: {why} {wanted.pattern!r}; the last lines were:\n{self.tail()}")

    def _read(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        held, at_line_start = "", True
        with contextlib.suppress(OSError):
            while piece := self._link.recv(65536):
                for watch in list(self.watchers):
                    watch(piece)
                held += decode(piece)
                cut = unfinished.start() if (unfinished := _UNFINISHED.search(held)) else len(held)
                plain, held = _UNSEEN.sub("", held[:cut]), held[cut:]
                at_line_start = self._keep(plain, at_line_start)
        self._keep(held, at_line_start)
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _keep(self, plain: str, at_line_start: bool) -> bool:
        if not plain:
            return at_line_start
        at = time.monotonic() - self._began
        with self._change:
            self._text += plain
            self._arrivals.append((len(self._text), at))
            self._change.notify_all()
        for line in re.findall(r"[^\n]*\n|[^\n]+", plain):
            self._log.write(f"[{at:8.2f}] {line}" if at_line_start else line)
            at_line_start = line.endswith("\n")
        self._log.flush()
        return at_line_start
