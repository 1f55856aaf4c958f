"""What a record could not tell of a machine: a problem where the plan's layout hangs on it."""

from __future__ import annotations

from collections.abc import Iterator

from agent.errors import Problem
from agent.inventory.choose import named_by, reasons_against
from agent.inventory.model import Disk, Inventory
from agent.layout.extents import smallest_esp
from agent.plan.disks import Where
from agent.plan.model import Plan

FACTS = {
    "transport": "how it is attached",
    "rotational": "whether it spins",
    "serial": "its serial number",
    "wwn": "its World Wide Name",
    "model": "its model",
    "by_path": "its links below /dev/disk/by-path",
    "sector_size": "how large its sectors are",
    "controller": "which controller it hangs on",
    "content": "what lies on it",
}
_LARGEST_SECTOR = 4096


def undecided(plan: Plan, inventory: Inventory) -> Iterator[Problem]:
    """Yield why this record is not enough to lay the plan out; nothing for a machine's own.

    A disk that what is known already excludes need not be known better.
    """
    wheres = [("disks.where", plan.disks.where)]
    wheres += [(f"storage.data[{n}].where", one.where) for n, one in enumerate(plan.storage.data)]
    for disk in inventory.disks:
        for place, where in wheres:
            for key in _asked(disk, where):
                yield Problem(
                    f"{place}.{'path' if key == 'by_path' else key}",
                    f"the facts of {inventory.name} do not say {FACTS[key]} ({disk.path}): name "
                    "the disk by something they have, or record the machine with bedplate "
                    "inventory --json",
                )
        if plan.disks.on_different_controllers and "controller" in disk.unknown:
            yield Problem(
                "disks.on_different_controllers",
                f"the facts of {inventory.name} do not say {FACTS['controller']} ({disk.path})",
            )
        if not plan.storage.whole and "sector_size" in disk.unknown:
            yield from _esp(plan, inventory, disk)


def notes(inventory: Inventory) -> Iterator[str]:
    """Yield what is not known and has to be looked at on the machine, in words."""
    yield from inventory.unknown
    for key, words in FACTS.items():
        disks = [disk.path for disk in inventory.disks if key in disk.unknown]
        if disks:
            yield f"{words}: {', '.join(disks)}"


def _asked(disk: Disk, where: Where) -> Iterator[str]:
    """Yield the fields that decide whether the disk matches, and are not known."""
    wanted = {
        "transport": bool(where.transport),
        "rotational": where.rotational is not None,
        "serial": bool(where.serial),
        "wwn": bool(where.wwn),
        "model": bool(where.model),
        "by_path": any("/by-" in path for path in where.path),
    }
    missing = [key for key, asked in wanted.items() if asked and key in disk.unknown]
    # With these keys left out, does anything that is known speak against it?
    known = where.model_copy(
        update={
            "path" if key == "by_path" else key: None if key == "rotational" else ()
            for key in missing
        }
    )
    if missing and (named_by(disk, where) or not any(reasons_against(disk, known))):
        yield from missing


def _esp(plan: Plan, inventory: Inventory, disk: Disk) -> Iterator[Problem]:
    least = smallest_esp(disk.model_copy(update={"sector_size": _LARGEST_SECTOR}))
    if plan.storage.preset.esp.size < least:
        yield Problem(
            "storage.preset",
            f"whether the ESP is large enough hangs on {FACTS['sector_size']}, which the facts of "
            f"{inventory.name} do not say ({disk.path})",
        )
