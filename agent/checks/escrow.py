"""Can the recovery key be given into escrow: to whom, and does an envelope come about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Problem, StepError
from agent.machine import Machine
from agent.secret import Secret

WHERE = "encryption.recovery.escrow_to"


@dataclass(frozen=True)
class EscrowReady:
    """The certificates are fit and in their time, and openssl makes an envelope for them."""

    certificates: tuple[str, ...]

    def describe(self) -> str:
        return f"the recovery key can be encrypted to {len(self.certificates)} certificates"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        found = list(machine.escrow.problems(self.certificates))
        yield from found
        if found:
            return
        try:
            machine.escrow.envelope(Secret("rehearsal"), self.certificates)
        except StepError as error:
            yield Problem(WHERE, f"no envelope can be made for these certificates: {error}")
