"""Bind the volume to Tang and the TPM, so that it opens at boot without a person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.keyslots import UNLOCK
from agent.machine import Advertisement, Machine, Progress
from agent.pin import binding_size, sss_config
from agent.plan.unlock import Policy
from agent.secret import Secret
from agent.steps.base import Evidence


@dataclass(frozen=True)
class BindUnlock:
    """`provisional`: the TPM's registers are added on the first boot (decision 0003)."""

    device: Path
    install_key: Secret
    policy: Policy
    servers: tuple[Advertisement, ...] = ()
    pcrs: tuple[int, ...] = ()
    provisional: bool = False
    name: str = "bind-unlock"

    def describe(self) -> str:
        until = ", until the first boot adds the registers" if self.provisional else ""
        return f'Bind {self.device} to "{self.policy}", keyslot {UNLOCK}{until}'

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        config = sss_config(self.policy, self.servers, self.bound_pcrs)
        machine.clevis.bind(self.device, existing=self.install_key, slot=UNLOCK, config=config)
        if self.provisional:
            self._leave_room(machine)
        return {
            "keyslot": UNLOCK,
            "policy": str(self.policy),
            "state": "provisional" if self.provisional else "final",
            "tang": [{"url": each.url, "thumbprint": each.thumbprint} for each in self.servers],
            "pcrs": list(self.bound_pcrs),
        }

    @property
    def bound_pcrs(self) -> tuple[int, ...]:
        """The registers this binding asks for: none of them while it is provisional."""
        return self.pcrs if self.policy.tpm2 and not self.provisional else ()

    def _leave_room(self, machine: Machine) -> None:
        """Fail here, not on the first boot, if the header does not hold the second binding."""
        need, room = binding_size(self.policy, self.servers), machine.keys.room(self.device)
        if need > room:
            raise StepError(
                f"{self.device}: the binding of the first boot needs {need} bytes of the LUKS2 "
                f"header, {room} are left"
            )
