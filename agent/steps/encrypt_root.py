"""Make a LUKS2 volume, the system's or one of data, and open it with its transient key."""

from __future__ import annotations

from dataclasses import dataclass

from agent.layout.model import Luks
from agent.machine import Machine, Progress
from agent.secret import Secret
from agent.steps.base import Evidence


@dataclass(frozen=True)
class EncryptRoot:
    luks: Luks
    key: Secret
    name: str = "encrypt-root"

    def describe(self) -> str:
        luks = self.luks
        return f"Encrypt {luks.device} as LUKS2 ({luks.cipher}, {luks.key_size} bit)"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        machine.storage.encrypt(self.luks, self.key)
        return {
            "device": str(self.luks.device),
            "uuid": str(self.luks.uuid),
            "label": self.luks.label,
            "cipher": self.luks.cipher,
            "key_bits": self.luks.key_size,
            "pbkdf": "pbkdf2",
            "iterations": self.luks.iterations,
        }
