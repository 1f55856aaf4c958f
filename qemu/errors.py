"""What can go wrong in the rig, one class per reaction of the caller.

    RigError                    something on the host: a program is missing, an image is locked …
    ├── QemuDiedError           the emulator ended by itself: look at qemu.log
    ├── WaitTimeoutError        the guest did not show or do it in time: look at console.log
    │   └── UnexpectedLineError     the guest showed what it must not
    ├── GuestPanicError         the guest's kernel gave up
    │   └── EmulationFlakeError     … through a known fault of the emulator: boot once more
    ├── GuestCommandError       a command in the guest failed
    └── ConnectionLostError     the link to the guest broke, or was never there

Messages end with what was last seen on the console, because a log file is one step further away.
"""

from __future__ import annotations


class RigError(Exception):
    """Root of the rig's failures."""


class QemuDiedError(RigError):
    """QEMU ended by itself; the message has the end of its stderr and of the console."""


class WaitTimeoutError(RigError):
    """Something awaited did not happen in time; the message has the last console lines."""


class UnexpectedLineError(WaitTimeoutError):
    """The guest showed a line that says the awaited one will never come."""


class GuestPanicError(RigError):
    """The guest's kernel panicked; the message has the last console lines."""


class EmulationFlakeError(GuestPanicError):
    """The panic is the emulator's fault, not the guest's: booting again is the right reaction.

    Multi-threaded TCG now and then executes a half-patched instruction while the kernel rewrites
    a static branch on another processor: `Oops: int3`, mostly in sched_clock_cpu, in the first
    seconds of about one boot in twelve. KVM and hardware are not affected.
    """


class GuestCommandError(RigError):
    """A command in the guest exited with a status other than 0."""

    def __init__(self, command: str, status: int, output: str) -> None:
        self.command, self.status, self.output = command, status, output
        super().__init__(f"{command}: exited with status {status}: {output.strip()[-2000:]}")


class ConnectionLostError(RigError):
    """The guest does not answer, or stopped answering, on a link that should work."""
