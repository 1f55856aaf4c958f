"""Destroy the installer's own key, once everybody who should can open the volume without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.keyslots import INSTALL, RECOVERY, UNLOCK
from agent.machine import Machine, Progress
from agent.secret import Secret
from agent.steps.base import Evidence


@dataclass(frozen=True)
class RemoveInstallKey:
    """Comes after `EscrowRecoveryKey` and `ProveUnlock`: both fail rather than let this run."""

    device: Path
    install_key: Secret
    recovery_key: Secret
    name: str = "remove-install-key"

    def describe(self) -> str:
        return f"Destroy the install key of {self.device}, keyslot {INSTALL}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        tokens = {each.number: each.token for each in machine.keys.keyslots(self.device)}
        if RECOVERY not in tokens or tokens.get(UNLOCK) != "clevis":
            raise StepError(
                f"{self.device}: keyslots are {sorted(tokens)}, the recovery key ({RECOVERY}) and "
                f"the Clevis binding ({UNLOCK}) must be there first"
            )
        machine.keys.kill(self.device, INSTALL, other=self.recovery_key)
        if machine.keys.opens(self.device, self.install_key):
            raise StepError(f"{self.device}: the install key still opens it")
        if not machine.keys.opens(self.device, self.recovery_key, RECOVERY):
            raise StepError(f"{self.device}: the recovery key does not open keyslot {RECOVERY}")
        left = machine.keys.keyslots(self.device)
        return {
            "destroyed": INSTALL,
            "keyslots": {str(each.number): each.token or "passphrase" for each in left},
        }
