"""Is this the machine the plan is for, and can it carry any installation at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from agent.errors import Problem
from agent.inventory.model import Inventory
from agent.layout.extents import MIB, gib
from agent.machine import Machine
from agent.plan.identity import Identity

LEAST_MEMORY = 830 * MIB
"""Bytes the kernel must have: what it tells of a machine with 896 MiB, the smallest one that was
seen to install (tests/boot/test_memory.py)."""


@dataclass(frozen=True)
class RightMachine:
    """Every name the plan gives must be this machine's."""

    wanted: Identity
    inventory: Inventory

    def describe(self) -> str:
        return "this is the machine the plan is for"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        yield from mismatches(self.wanted, self.inventory)


def mismatches(wanted: Identity, inventory: Inventory) -> Iterator[Problem]:
    """Yield every name in the plan that is not this machine's."""
    macs = tuple(nic.mac for nic in inventory.nics)
    if wanted.mac is not None and wanted.mac not in macs:
        has = ", ".join(macs) or "no wired interface"
        yield Problem("machine.mac", f"the plan is for {wanted.mac}, this machine has {has}")
    dmi = inventory.dmi
    for name, want, has_it in (
        ("serial", wanted.serial, dmi.serial),
        ("uuid", wanted.uuid, dmi.uuid),
    ):
        if want is not None and want != has_it:
            yield Problem(
                f"machine.{name}", f"the plan is for {want}, this machine is {has_it or 'unnamed'}"
            )


@dataclass(frozen=True)
class AbleMachine:
    """UEFI and enough memory: without them nothing that follows can work."""

    inventory: Inventory

    def describe(self) -> str:
        return "the machine was booted by UEFI and has enough memory"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        yield from wrong_firmware(self.inventory)
        yield from too_little_memory(self.inventory)


def wrong_firmware(inventory: Inventory) -> Iterator[Problem]:
    """Yield that the machine starts by a BIOS, if it does."""
    if not inventory.firmware.uefi:
        yield Problem("machine", "was booted by a legacy BIOS; set its firmware to UEFI")


def too_little_memory(inventory: Inventory) -> Iterator[Problem]:
    """Yield that the machine has less memory than an installation needs, if it has."""
    if inventory.memory < LEAST_MEMORY:
        has, needs = gib(inventory.memory), gib(LEAST_MEMORY)
        yield Problem("machine", f"has {has} of memory, an installation needs {needs}")


@dataclass(frozen=True)
class StillValid:
    """A plan past its date is refused: it may have been meant for the server's last owner."""

    expires: datetime | None
    now: datetime

    def describe(self) -> str:
        return "the plan has not expired"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        yield from too_old(self.expires, self.now)


def too_old(expires: datetime | None, now: datetime) -> Iterator[Problem]:
    """Yield that a plan is past its date at `now`, if it is."""
    if expires is not None and now > expires:
        yield Problem(
            "expires",
            f"the plan expired at {expires:%Y-%m-%dT%H:%M:%SZ}; this machine's clock says "
            f"{now:%Y-%m-%dT%H:%M:%SZ}",
        )
