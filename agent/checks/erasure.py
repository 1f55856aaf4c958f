"""Can every chosen disk erase itself as the plan asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Problem, StepError
from agent.inventory.erasure import Way, pick
from agent.inventory.model import Disk
from agent.machine import Machine
from agent.plan.disks import SecureEraseBy


@dataclass(frozen=True)
class DisksForget:
    """Each disk has the way of erasing itself that the plan names, or any where it says `auto`."""

    disks: tuple[Disk, ...]
    wanted: SecureEraseBy

    def describe(self) -> str:
        return f"{', '.join(disk.path for disk in self.disks)} can erase themselves"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        for disk in self.disks:
            try:
                picked = pick(machine.storage.ways_to_erase(disk), self.wanted)
            except StepError as error:
                picked = str(error)
            if isinstance(picked, str):
                yield Problem("disks.secure_erase", f"{disk} cannot: {picked}")


def ways(disks: tuple[Disk, ...], wanted: SecureEraseBy, machine: Machine) -> tuple[Way, ...]:
    """Return the way for each disk; `DisksForget` found before that each has one."""
    picked = [pick(machine.storage.ways_to_erase(disk), wanted) for disk in disks]
    if refusals := [each for each in picked if isinstance(each, str)]:
        raise StepError("; ".join(refusals))
    return tuple(each for each in picked if isinstance(each, Way))
