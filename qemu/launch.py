"""Start QEMU for a machine, with its TPM, connected to the rig by socket pairs.

Socket pairs and not sockets in the file system: nothing to wait for, no path that is too long, no
port that another took.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from qemu import accel
from qemu.console import TAIL_LINES, Console
from qemu.errors import QemuDiedError, RigError
from qemu.machine import Links, Machine, command_line
from qemu.program import end, find, mortal
from qemu.qmp import Qmp


@dataclass(frozen=True)
class Running:
    """QEMU, and the rig's ends of its lines."""

    process: subprocess.Popen[bytes]
    began: float
    """Power-on, as time.monotonic()."""
    console: Console
    second: Console
    qmp: Qmp
    log: Path
    """QEMU's own stderr."""

    def last_words(self) -> str:
        """Return the end of QEMU's stderr and of the console."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([*lines, self.console.tail()])


def launch(machine: Machine, directory: Path, stack: ExitStack) -> Running:
    """Start the machine; `stack` ends it. QemuDiedError when it does not come up.

    argv, qemu.log, console.log, shell.log and tpm.log are written to the directory.
    """
    tpm: socket.socket | None = None
    if machine.tpm is not None:
        resumed = machine.resume is not None
        tpm = stack.enter_context(machine.tpm.powered(directory / "tpm.log", resumed=resumed))
    pairs = [socket.socketpair() for _ in range(3)]
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    first, second_line, control = (each.fileno() for each in theirs)
    links = Links(first, second_line, control, tpm.fileno() if tpm else None)
    argv = [find("qemu-system-x86_64"), *command_line(machine, accel.options(), links)]
    (directory / "argv").write_text(shlex.join(argv) + "\n")
    log = directory / "qemu.log"
    with log.open("wb") as words:
        began = time.monotonic()
        process = subprocess.Popen(
            mortal(argv),
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            cwd=directory,
            pass_fds=[each.fileno() for each in (*theirs, tpm) if each],
            start_new_session=True,  # Ctrl-C is for the rig, which then ends QEMU in its order
        )
    for each in theirs:
        each.close()
    console = Console(ours[0], directory / "console.log", began, "console")
    second = Console(ours[1], directory / "shell.log", began, "shell")
    running = Running(process, began, console, second, Qmp(ours[2]), log)
    for line in (console, second, running.qmp):
        stack.callback(line.close)
    stack.callback(end, process)  # pushed last, so it comes first: a console ends with QEMU
    try:
        running.qmp.negotiate()
    except RigError as error:
        process.wait(10)
        words_ = running.last_words()
        raise QemuDiedError(f"{machine.name}: QEMU did not start: {words_}") from error
    return running
