"""A machine that is switched on: its console, its root shell, its switches.

    with Vm(machine) as vm:
        vm.wait_for("login:", 200)
        vm.poweroff()

Everything a run leaves behind is in `build/vm/NAME/`: console.log (first serial, with seconds
since power-on), shell.log (second serial), qemu.log (its stderr), argv, tpm.log. The run before
it is kept as `NAME.previous`.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from qemu import migration
from qemu.console import Sighting
from qemu.devices import Devices
from qemu.errors import (
    ConnectionLostError,
    EmulationFlakeError,
    GuestPanicError,
    QemuDiedError,
    RigError,
    WaitTimeoutError,
)
from qemu.launch import launch
from qemu.machine import Machine
from qemu.program import end, repository
from qemu.shell import Shell
from qemu.ssh import Ssh
from qemu.turn import one_at_a_time

_PANIC = ("Kernel panic - not syncing", "Oops: int3")
# Text patching that another processor runs into, and a timer that a busy host lets starve.
_FLAKES = ("Oops: int3", "IO-APIC + timer doesn't work")


@dataclass(frozen=True)
class Exit:
    """How a machine was switched off.

    `reason` is QEMU's: guest-shutdown, guest-reset (with on_reboot="exit"), host-qmp-quit …
    """

    reason: str
    at: float
    """Seconds since power-on."""


class Vm:
    """One power-on of a machine, from `with` to its end. Not to be used from several threads.

    At the end of the block a machine that still runs is shut down in an orderly way if it has a
    TPM that others may use afterwards, and is simply ended otherwise, or after an exception.
    `key` is the private key whose public half the guest lets in as root.
    """

    def __init__(self, machine: Machine, *, key: Path | None = None, runs: Path | None = None):
        self.machine, self._key = machine, key
        self.runs = runs or repository() / "build" / "vm"
        self.directory = self.runs / machine.name
        self._stack = ExitStack()
        self._ssh: Ssh | None = None
        self._seen = 0  # the console's text up to here holds no panic

    def __enter__(self) -> Vm:
        with ExitStack() as stack:
            stack.enter_context(one_at_a_time(self.runs / ".lock", self.machine.name))
            self._prepare_directory()
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.running:
                keeps_tpm = self.machine.tpm is not None and self.machine.resume is None
                self.off() if keeps_tpm and kind is None else self.quit()
        finally:
            self._stack.close()

    # -- watching ------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def seconds(self) -> float:
        """Seconds since power-on."""
        return time.monotonic() - self.began

    def wait_for(
        self, pattern: str, timeout: float, *, since: int = 0, unless: str | None = None
    ) -> Sighting:
        """Wait until the console has shown `pattern` (re, MULTILINE), looking from `since` on.

        `unless` matches lines that say it will never come (UnexpectedLineError). It also raises
        WaitTimeoutError, GuestPanicError, EmulationFlakeError and QemuDiedError, each with the
        last 40 lines.
        """
        return self.console.wait(pattern, timeout, since=since, unless=unless, check=self.check)

    def type(self, text: str) -> None:
        """Type on the console; end a line with a newline."""
        self.console.send(text)

    def check(self) -> None:
        """Raise what has gone wrong so far: QemuDiedError, GuestPanicError, EmulationFlakeError."""
        if self.console.ended:  # QEMU's lines are closed a moment before its status is there
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        status = self._process.poll()
        if status not in (None, 0):
            raise QemuDiedError(
                f"{self.machine.name}: QEMU ended with {status}: {self._qemu.last_words()}"
            )
        text = self.console.text
        if any(sign in text[self._seen :] for sign in _PANIC):
            time.sleep(2)  # for the rest of the trace
            found = self.console.text[self._seen :]
            flake = any(sign in found for sign in _FLAKES)
            kind = EmulationFlakeError if flake else GuestPanicError
            tail = self.console.tail()
            raise kind(f"{self.machine.name}: the guest's kernel panicked:\n{tail}")
        self._seen = max(0, len(text) - 100)

    def wait_exit(self, timeout: float) -> Exit:
        """Wait until the machine is switched off, by the guest or otherwise."""
        deadline = time.monotonic() + timeout
        while self.running:
            self.check()
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"{self.machine.name}: still running after {timeout:.0f} s;"
                    f" the last lines were:\n{self.console.tail()}"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
        self.check()
        events = [event for event in self.qmp.events if event.name == "SHUTDOWN"]
        if not events:
            return Exit("unknown", self.seconds)
        return Exit(str(events[-1].details.get("reason")), events[-1].at - self.began)

    # -- reaching in ---------------------------------------------------------------------------

    @property
    def ssh(self) -> Ssh:
        """The guest's sshd as root; connected by its first use (about 5 s under emulation)."""
        if self._key is None:
            raise RigError(f"{self.machine.name}: was switched on without an ssh key")
        if self._ssh is None:
            self._ssh = Ssh(self.devices.forwarded(22), self._key, check=self.check)
            self._stack.callback(self._ssh.close)
        return self._ssh

    def set_clock(self) -> None:
        """Set the guest's clock to the host's, through the root shell; a resumed one stands."""
        self.shell.run(f"date -s @{time.time():.0f}")

    # -- switches ------------------------------------------------------------------------------

    def press_power_button(self) -> None:
        with contextlib.suppress(ConnectionLostError):
            self.qmp.execute("system_powerdown")

    def poweroff(self, timeout: float = 120) -> Exit:
        """Shut the guest down in an orderly way, and wait until it is off.

        By the root shell or ssh, whichever was used before; else by the power button, and when
        that does nothing (no logind, or an initrd), by the root shell if one answers.
        """
        began, by_button = time.monotonic(), not (self.shell.ready or self._ssh)
        if not by_button:
            self._order_shutdown()
        while True:
            if by_button:
                self.press_power_button()
            try:
                return self.wait_exit(max(0.1, min(20, began + timeout - time.monotonic())))
            except WaitTimeoutError as error:
                if time.monotonic() - began >= timeout:
                    message = f"no orderly shutdown within {timeout:g} s: {error}"
                    raise WaitTimeoutError(message) from None
            if by_button:
                with contextlib.suppress(WaitTimeoutError):
                    self.shell.wait(5)
                    self.shell.send("systemctl poweroff")

    def _order_shutdown(self) -> None:
        if self.shell.ready:
            self.shell.send("systemctl poweroff")
        elif self._ssh is not None:
            with contextlib.suppress(RigError):  # the link may break before the answer
                self._ssh.run("systemctl poweroff", check=False)

    def off(self, timeout: float = 120) -> None:
        """Shut down in an orderly way if the guest can be moved to it, and end it otherwise."""
        try:
            self.poweroff(timeout)
        except (WaitTimeoutError, GuestPanicError):
            self.quit()

    def quit(self) -> None:
        """Cut the power. Images stay sound; for the TPM it is an unclean stop (see `tpm`)."""
        with contextlib.suppress(RigError):
            self.qmp.execute("quit", timeout=10)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        end(self._process)

    def reset(self) -> None:
        """Press the reset button."""
        self._drop_links()
        self._seen = self.console.mark()
        self.qmp.execute("system_reset")

    # -- states --------------------------------------------------------------------------------

    def save(self, tag: str) -> None:
        """Save the running machine into its images under `tag` (about 2 s); no NVMe may be in."""
        self._monitor(f"savevm {tag}")

    def load(self, tag: str) -> None:
        """Put memory, disks, variables and TPM back to what `save` saved; links are made anew.

        The guest's clock stands where it stood: `set_clock`.
        """
        self._drop_links()
        self._seen = self.console.mark()
        self._monitor(f"loadvm {tag}")

    def freeze(self, state: Path) -> None:
        """Write the running machine's state to a file, for `Machine.resume`, and end it.

        Disks and variables are left as they are at this moment; branch them before resuming.
        Drives on nvme cannot be frozen (QEMU cannot migrate them): plug them in after resuming.
        """
        self._drop_links()
        migration.write(self.qmp, state)
        self.quit()

    def _monitor(self, line: str) -> None:
        if answer := self.qmp.hmp(line).strip():
            raise RigError(f"{self.machine.name}: {line}: {answer}")

    def _drop_links(self) -> None:
        """Forget connections whose other end is about to be replaced."""
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None
        self.shell.forget()

    # -- starting ------------------------------------------------------------------------------

    def _prepare_directory(self) -> None:
        previous = self.directory.with_name(f"{self.directory.name}.previous")
        if self.directory.exists():
            shutil.rmtree(previous, ignore_errors=True)
            self.directory.rename(previous)
        self.directory.mkdir(parents=True)

    def _start(self, stack: ExitStack) -> None:
        self._qemu = launch(self.machine, self.directory, stack)
        self._process, self.began = self._qemu.process, self._qemu.began
        self.console, self.qmp = self._qemu.console, self._qemu.qmp
        self.shell = Shell(self._qemu.second, check=self.check)
        self.devices = Devices(self.machine, self.qmp)
        if script := self._leave_a_way_in():
            stack.callback(script.unlink)
        if self.machine.resume is not None:
            migration.read(self.qmp, self.machine.resume)

    def _leave_a_way_in(self) -> Path | None:
        """Write `ssh` into the run's directory: a command for a person at another terminal."""
        if self._key is None or not any(22 in nic.forward for nic in self.machine.nics):
            return None
        script = self.directory / "ssh"
        login = Ssh(self.devices.forwarded(22), self._key)
        script.write_text(f'#!/bin/sh\nexec {shlex.join(login.command())} "$@"\n')
        script.chmod(0o755)
        login.close()
        return script
