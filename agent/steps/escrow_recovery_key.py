"""Send the recovery key, encrypted to its keepers, and wait until somebody has it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from agent.errors import StepError
from agent.keyslots import RECOVERY
from agent.layout.model import Luks
from agent.machine import Machine, Progress
from agent.secret import Secret
from agent.steps.base import Evidence


@dataclass(frozen=True)
class EscrowRecoveryKey:
    """`created` is when the key was made, in UTC (RFC 3339)."""

    luks: Luks
    recovery_key: Secret
    certificates: tuple[str, ...]
    hostname: str
    machine_name: str
    plan: str
    created: str
    name: str = "escrow-recovery-key"

    def describe(self) -> str:
        keepers = "1 keeper" if len(self.certificates) == 1 else f"{len(self.certificates)} keepers"
        return f"Escrow the recovery key of {self.hostname} to {keepers}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        envelope = machine.escrow.envelope(self._content(), self.certificates)
        sent = hashlib.sha256(envelope).hexdigest()
        stored = machine.escrow_sink.deliver(envelope, self._about()).lower()
        if stored != sent:
            raise StepError(f"escrow: the receiver stored {stored}, the envelope sent is {sent}")
        return {"acknowledged": sent, "bytes": len(envelope), "keepers": len(self.certificates)}

    def _content(self) -> Secret:
        """Return what a keeper finds in the envelope (docs/recovery.md)."""
        content = {**self._about(), "keyslot": RECOVERY, "key": self.recovery_key.text}
        return Secret(json.dumps(content, indent=1) + "\n")

    def _about(self) -> dict[str, str]:
        return {
            "hostname": self.hostname,
            "machine": self.machine_name,
            "luks_uuid": str(self.luks.uuid),
            "label": self.luks.label,
            "plan": self.plan,
            "created": self.created,
        }
