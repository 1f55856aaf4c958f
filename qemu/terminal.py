"""Put a machine's console on the terminal of the person who started it."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator

from qemu.errors import ConnectionLostError
from qemu.vm import Vm

_ESCAPE = b"\x1d"  # Ctrl-]

HELP = "Ctrl-] then: p power button · r reset · s root shell · c console · q cut the power"


def attach(vm: Vm) -> None:
    """Connect the console to stdin and stdout until the machine is switched off."""
    with _raw(sys.stdin.fileno()):
        session = _Session(vm)
        try:
            while vm.running:
                ready, _, _ = select.select([sys.stdin], [], [], 0.2)
                if ready and not session.typed(os.read(sys.stdin.fileno(), 1024)):
                    return
        finally:
            session.leave()


class _Session:
    """What is shown, and whether the escape key was pressed."""

    def __init__(self, vm: Vm) -> None:
        self._vm, self._line, self._escaped = vm, vm.console, False
        self._line.watchers.append(_show)

    def leave(self) -> None:
        self._line.watchers.remove(_show)

    def typed(self, keys: bytes) -> bool:
        """Act on keys; false when stdin has ended or the machine was to be switched off."""
        if not keys:
            return False
        for number in keys:
            key = bytes([number])
            if self._escaped:
                self._escaped = False
                if not self._command(key.decode(errors="replace")):
                    return False
            elif key == _ESCAPE:
                self._escaped = True
            else:
                with contextlib.suppress(ConnectionLostError):
                    self._line.send(key.decode("latin-1"))
        return True

    def _command(self, key: str) -> bool:
        if key == "q":
            self._vm.quit()
            return False
        if key == "p":
            self._vm.press_power_button()
        elif key == "r":
            self._vm.reset()
        elif key in ("s", "c"):
            self.leave()
            self._line = self._vm.shell.console if key == "s" else self._vm.console
            self._line.watchers.append(_show)
            _show(f"\r\n[{self._line.name}]\r\n".encode())
        else:
            _show(f"\r\n{HELP}\r\n".encode())
        return True


def _show(piece: bytes) -> None:
    os.write(sys.stdout.fileno(), piece)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Pass every key on, Ctrl-C among them; a stdin that is no terminal is left as it is."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
