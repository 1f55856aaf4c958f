"""The Secure Boot variables of this machine's firmware, through efivarfs."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.errors import MachineError, Problem, StepError
from agent.media.enrolment import ATTRIBUTES, GLOBAL, Variable, vendor

State = Literal["setup", "on", "off", "unknown"]
"""setup: no PK, whoever comes first owns it; off: keys are there and nobody looks at them."""
# From the back: with PK set, the firmware wants everything else signed by whom it knows.
_ORDER: tuple[Variable, ...] = ("db", "KEK", "PK")


@dataclass(frozen=True)
class SecureBoot:
    """Reads and writes the variables."""

    variables: Path = Path("/sys/firmware/efi/efivars")

    def state(self) -> State:
        """Tell what the firmware does with signatures."""
        setup, enforced = self._flag("SetupMode"), self._flag("SecureBoot")
        if setup is None or enforced is None:
            return "unknown"
        if setup:
            return "setup"
        return "on" if enforced else "off"

    def enroll(self, updates: Mapping[Variable, bytes]) -> None:
        """Write the signed updates (.auth files); the firmware must be in setup mode.

        Raises `MachineError` before anything is written where it is not, and `StepError` where the
        firmware refuses one.
        """
        state = self.state()
        if state != "setup":
            message = {
                "unknown": "cannot be read: this machine has no UEFI or does not show it",
            }.get(state, "has an owner already: clear PK in the firmware's menu first (setup mode)")
            raise MachineError([Problem("Secure Boot", message)])
        for name in _ORDER:
            place = self.variables / f"{name}-{vendor(name)}"
            try:
                # One write: efivarfs hands each of them to the firmware as a whole variable.
                descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o644)
                try:
                    os.write(descriptor, struct.pack("<I", ATTRIBUTES) + updates[name])
                finally:
                    os.close(descriptor)
            except OSError as error:
                reason = error.strerror or str(error)
                raise StepError(
                    f"{name}: the firmware did not take it: {reason.lower()}"
                ) from error

    def _flag(self, name: str) -> bool | None:
        try:
            return (self.variables / f"{name}-{GLOBAL}").read_bytes()[4:] == b"\1"
        except OSError:
            return None
