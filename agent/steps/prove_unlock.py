"""Prove every way into the volume from its header on the disk, as the next boot will find it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.keyslots import RECOVERY, UNLOCK
from agent.machine import Machine, PinAnswer, Progress
from agent.plan.unlock import Policy
from agent.secret import Secret
from agent.steps.base import Evidence


@dataclass(frozen=True)
class ProveUnlock:
    """`unasked`: URLs of Tang servers whose advertisement came with the plan.

    Only those may be away while installing; what they would have proven is reported as not proven.
    """

    device: Path
    recovery_key: Secret
    policy: Policy
    unasked: tuple[str, ...] = ()
    provisional: bool = False
    name: str = "prove-unlock"

    def describe(self) -> str:
        return f'Prove that "{self.policy}" and the recovery key open {self.device}'

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        if not machine.keys.opens(self.device, self.recovery_key, RECOVERY):
            raise StepError(f"{self.device}: the recovery key does not open keyslot {RECOVERY}")
        answers = machine.clevis.answers(self.device, UNLOCK)
        silent = [answer for answer in answers if answer.error is not None]
        if any(answer.pin not in self.unasked for answer in silent):
            raise StepError(f"{self.device}: {_why(silent)}")
        seconds = self._unlock(machine, silent)
        keyslots = machine.keys.keyslots(self.device)
        return {
            "policy": str(self.policy),
            "state": "provisional" if self.provisional else "final",
            "unlock": "not proven" if seconds is None else "proven",
            "unlock_seconds": seconds,
            "pins": {answer.pin: answer.error or "answers" for answer in answers},
            "keyslots": {str(each.number): each.token or "passphrase" for each in keyslots},
            "recovery": "proven",
        }

    def _unlock(self, machine: Machine, silent: list[PinAnswer]) -> float | None:
        """Return the seconds one unlock took; None if servers that may be away are missing."""
        began = time.monotonic()
        try:
            passphrase = machine.clevis.unlock(self.device, UNLOCK)
        except StepError:
            if silent:
                return None
            raise
        seconds = round(time.monotonic() - began, 1)
        if not machine.keys.opens(self.device, passphrase, UNLOCK):
            raise StepError(f"{self.device}: what Clevis returned does not open keyslot {UNLOCK}")
        return seconds


def _why(silent: list[PinAnswer]) -> str:
    reasons = (f"{answer.pin}: {(answer.error or '').splitlines()[-1]}" for answer in silent)
    return "no share came from " + "; ".join(reasons)
