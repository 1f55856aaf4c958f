"""Why each disk of a machine was taken, or was not: what a preview tells before it is too late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.inventory.choose import named_by, reasons_against
from agent.inventory.model import Disk, Inventory
from agent.layout.extents import gib
from agent.plan.disks import Where
from agent.plan.model import Plan


@dataclass(frozen=True)
class Verdict:
    """One disk; `use` is `system`, the name of an array of data, or None where it is left alone."""

    disk: Disk
    use: str | None
    why: tuple[str, ...]


def verdicts(
    plan: Plan, inventory: Inventory, system: Sequence[Disk], data: Sequence[Sequence[Disk]]
) -> Iterator[Verdict]:
    """Yield every disk: those that were chosen in their order, then the others.

    `system` and `data` are the disks that were chosen for the plan's `disks` and `storage.data`.
    """
    taken = set(system).union(*data)
    for disk in system:
        yield Verdict(disk, "system", tuple(reasons_for(disk, plan.disks.where)))
    for wanted, disks in zip(plan.storage.data, data, strict=True):
        for disk in disks:
            yield Verdict(disk, wanted.name, tuple(reasons_for(disk, wanted.where)))
    for disk in inventory.disks:
        if disk not in taken:
            yield Verdict(disk, None, tuple(_left_alone(disk, plan)))


def _left_alone(disk: Disk, plan: Plan) -> Iterator[str]:
    uses = [("the system", plan.disks.where)]
    uses += [(one.name, one.where) for one in plan.storage.data]
    for use, where in uses:
        against = ", ".join(reasons_against(disk, where)) or "is another path to a disk it has"
        yield f"for {use}: {against}" if len(uses) > 1 else against


def reasons_for(disk: Disk, where: Where) -> Iterator[str]:
    """Yield what of `where` a matching disk meets, with its own values."""
    if name := named_by(disk, where):
        yield f"is named by its {name}"
    if where.transport:
        yield f"is attached by {disk.transport}"
    for condition in where.size:
        yield f"size {gib(disk.size)} is {condition}"
    if where.rotational is not None:
        yield "spins" if disk.rotational else "does not spin"
    if where.model:
        yield f"model is {disk.model}"
    if where == Where():
        yield "the plan asks for nothing special, and exactly as many disks as it counts are left"
