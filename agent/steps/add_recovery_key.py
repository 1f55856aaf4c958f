"""Give the volume the key that people keep for the day when neither Tang nor the TPM answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.keyslots import RECOVERY
from agent.machine import Machine, Progress
from agent.secret import Secret
from agent.steps.base import Evidence


@dataclass(frozen=True)
class AddRecoveryKey:
    device: Path
    install_key: Secret
    recovery_key: Secret
    name: str = "add-recovery-key"

    def describe(self) -> str:
        return f"Add the recovery key to {self.device}, keyslot {RECOVERY}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        machine.keys.add(
            self.device, existing=self.install_key, new=self.recovery_key, slot=RECOVERY
        )
        if not machine.keys.opens(self.device, self.recovery_key, RECOVERY):
            raise StepError(f"{self.device}: the recovery key does not open keyslot {RECOVERY}")
        return {"keyslot": RECOVERY}
