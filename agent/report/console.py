"""The operator's consoles: a live check list where the terminal can show one, lines elsewhere.

Several consoles show the same run at once (tty1 and ttyS0); each has its own thread, so that one
that does not drain holds up neither the other nor the install.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import termios
from typing import TYPE_CHECKING, TextIO, cast

from agent.report.background import Background
from agent.report.event import Event
from agent.report.plainconsole import PlainConsole

if TYPE_CHECKING:
    from agent.report.liveconsole import LiveConsole

# Serial lines, virtio and hypervisor consoles: nobody knows what listens there or how wide it is,
# and it is often a log file.
_SERIAL = re.compile(
    r"/dev/(tty(S|USB|ACM|AMA|O|sclp|mxc|MSM|HV|hvc)\d*|hvc\d+|sclp_line\d*|console)"
)
_VIRTUAL = re.compile(r"/dev/tty\d+")
_INCAPABLE = {"", "dumb", "unknown", "vt220", "vt102", "vt100"}


def open_console(stream: TextIO, term: str) -> Background:
    """Return a sink that shows events on an open text stream.

    `term` is the stream's terminal type (`$TERM`); a Linux virtual terminal is known by its device.
    The stream stays the caller's and must outlive the sink's `close`.
    """
    name = str(getattr(stream, "name", "console"))
    return Background(_renderer(_unlocked(stream), term), name, lambda: _discard_output(stream))


def is_live(stream: TextIO, term: str) -> bool:
    """Return whether the stream is a terminal on which lines can be redrawn."""
    try:
        if not stream.isatty():
            return False
        device = os.ttyname(stream.fileno())
    except (OSError, ValueError):
        return False
    if _VIRTUAL.fullmatch(device):
        return True
    return not _SERIAL.fullmatch(device) and term not in _INCAPABLE


class _Unlocked(io.TextIOBase):
    """Writes straight to a stream's descriptor.

    A thread that is stuck in a buffered write holds the buffer's lock, and whoever closes the
    stream would wait for it for ever.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._descriptor = descriptor
        self._encoding = encoding

    def write(self, text: str, /) -> int:
        rest = memoryview(text.encode(self._encoding, "replace"))
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        return len(text)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property there is none the less
        return self._encoding


def _unlocked(stream: TextIO) -> TextIO:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return stream  # in memory: nothing to be stuck on
    stream.flush()
    return cast(TextIO, _Unlocked(descriptor, stream.encoding))


def _discard_output(stream: TextIO) -> None:
    """Throw away what a serial line has not sent yet, or closing it takes 30 s (setserial(8))."""
    with contextlib.suppress(OSError, ValueError, termios.error):
        termios.tcflow(stream.fileno(), termios.TCOON)
        termios.tcflush(stream.fileno(), termios.TCOFLUSH)


def _renderer(stream: TextIO, term: str) -> PlainConsole | _LateConsole:
    if not is_live(stream, term):
        return PlainConsole(stream)
    virtual = _VIRTUAL.fullmatch(os.ttyname(stream.fileno()))
    return _LateConsole(stream, "linux" if virtual else term)


class _LateConsole:
    """Imports rich at the first event, in the console's thread: it takes seconds in emulation."""

    def __init__(self, stream: TextIO, term: str) -> None:
        self._stream = stream
        self._term = term
        self._console: LiveConsole | None = None

    def __call__(self, event: Event) -> None:
        if self._console is None:
            from agent.report.liveconsole import LiveConsole

            self._console = LiveConsole(self._stream, self._term)
        self._console(event)

    def tick(self) -> float:
        return self._console.tick() if self._console else 1.0

    def close(self, timeout: float) -> None:
        if self._console:
            self._console.close(timeout)
