"""Can this machine's TPM seal, and will it still be able to at the next power cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Problem
from agent.machine import Machine


@dataclass(frozen=True)
class TpmReady:
    """One real seal and unseal, with the registers that will be sealed to."""

    pcrs: tuple[int, ...]

    def describe(self) -> str:
        return f"the TPM seals and unseals, PCR {', '.join(map(str, self.pcrs))} of sha256"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        yield from machine.tpm.problems(self.pcrs)
