"""What the checks will refuse for certain, told from a record alone: for previews, far away."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from agent.checks.machine import too_little_memory, too_old, wrong_firmware
from agent.checks.network import absent
from agent.errors import Problem
from agent.inventory.foreman import FIRMWARE, MEMORY, TPM
from agent.inventory.model import Inventory
from agent.plan.model import Plan


def foreseen(plan: Plan, machine: Inventory, now: datetime) -> Iterator[Problem]:
    """Yield what stands against the plan on this machine, and against the plan at `now`.

    What the record does not know, and what may be otherwise tomorrow, such as a TPM in lockout, is
    left to the machine.
    """
    if FIRMWARE not in machine.unknown:
        yield from wrong_firmware(machine)
    if MEMORY not in machine.unknown:
        yield from too_little_memory(machine)
    yield from too_old(plan.expires, now)
    if not machine.unknown:
        yield from absent(plan.configure.network, machine)
    if plan.encryption is None or not plan.encryption.unlock.tpm2 or TPM in machine.unknown:
        return
    if machine.tpm is None:
        policy = plan.encryption.unlock
        yield Problem("encryption.unlock", f"{policy} needs a TPM 2.0, the machine has none")
    elif not machine.tpm.sha256_bank:
        yield Problem(
            "encryption.tpm2.pcrs", "are those of the sha256 bank, which this TPM does not have"
        )
