"""A root shell on the guest's second serial line: works in the initrd, and without a network.

The guest must run one there: `systemd.debug_shell=ttyS1` on the kernel command line for the
system, `rd.systemd.debug_shell=ttyS1` for the initrd.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from qemu.console import Console
from qemu.errors import GuestCommandError, WaitTimeoutError

BOTH = "systemd.debug_shell=ttyS1 rd.systemd.debug_shell=ttyS1"
"""Kernel options that give this shell in the initrd and in the system."""

# A terminal in canonical mode takes lines of at most 4095 bytes (termios(3)), and cuts the rest.
_LONGEST = 3900


@dataclass(frozen=True)
class Output:
    """What a command did; `text` has stdout and stderr together."""

    status: int
    text: str
    seconds: float


class Shell:
    """Commands one after another on the second serial line."""

    def __init__(self, console: Console, check: Callable[[], None] = lambda: None) -> None:
        self.console, self._check = console, check
        self._numbers = itertools.count(1)
        self.ready = False
        """Whether it has answered."""

    def forget(self) -> None:
        """Look for the shell anew at the next command: the machine was reset or restored."""
        self.ready = False

    def wait(self, timeout: float = 120) -> None:
        """Wait until the shell answers."""
        deadline = time.monotonic() + timeout
        while not self.ready:
            mark, since = f"ready-{next(self._numbers)}", self.console.mark()
            # Written in two pieces, so that the echo of the typed line does not match.
            self.console.send(f"\nstty -echo 2>/dev/null; printf 'rea%s\\n' 'dy-{mark[6:]}'\n")
            try:
                self.console.wait(rf"{mark}$", 3, since=since, check=self._check)
            except WaitTimeoutError:
                if time.monotonic() > deadline:
                    raise WaitTimeoutError(
                        f"no root shell on the second serial line within {timeout:g} s;"
                        f" the last lines were:\n{self.console.tail()}"
                    ) from None
                continue
            self.ready = True

    def send(self, command: str) -> None:
        """Type a command without waiting for it: for one that takes the shell away."""
        self.console.send(f"{command}\n")

    def run(self, command: str, timeout: float = 60, *, check: bool = True) -> Output:
        """Run a command line (sh) and return its status and output; GuestCommandError if not 0."""
        line = command.strip()
        if len(line) > _LONGEST or "\n" in line:
            raise ValueError(f"a command is one line of at most {_LONGEST} bytes: {line[:60]}…")
        self.wait()
        number, since, began = next(self._numbers), self.console.mark(), time.monotonic()
        self.console.send(
            f"printf 'beg%s\\n' in-{number}; ( {line} ) 2>&1 </dev/null;"
            f" printf '\\nend-%s-%s-\\n' $? {number}\n"
        )
        try:
            done = self.console.wait(
                rf"begin-{number}\n((?:.*\n)*?)(.*)\nend-([0-9]+)-{number}-\n",
                timeout, since=since, check=self._check,
            )  # fmt: skip
        except WaitTimeoutError as error:
            self._interrupt()
            raise WaitTimeoutError(f"{command}: {error}") from None
        text = done.match.group(1) + done.match.group(2)
        output = Output(int(done.match.group(3)), text, time.monotonic() - began)
        if check and output.status:
            raise GuestCommandError(command, output.status, text)
        return output

    def _interrupt(self) -> None:
        self.console.send("\x03")
        self.ready = False
