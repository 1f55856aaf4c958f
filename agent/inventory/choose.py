"""Choose the target disks: exactly as many as the plan counts, or a problem that shows them all.

Zero or too many matches is never resolved by taking the first: a wrong disk is a lost server.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from agent.errors import Problem
from agent.inventory.content import described
from agent.inventory.model import Disk, Inventory
from agent.layout.extents import gib
from agent.plan.data import DataArray
from agent.plan.disks import Disks, Where

MUST_BE_NAMED = frozenset({"usb", "fc", "iscsi", "nvmeof", "mmc"})
"""Transports that are taken only when the plan names them: removable or shared with others."""

_NO_WWN = re.compile(r"(?:0x|naa\.|eui\.|nvme\.|uuid\.)?[0-]*")
"""What a device says that was never given a World Wide Name."""


def choose(inventory: Inventory, wanted: Disks) -> tuple[Disk, ...] | Problem:
    """Return the matching disks in a stable order (serial), or why there is no single answer."""
    chosen = matching(inventory, wanted.where, wanted.count, {})
    if isinstance(chosen, str):
        return Problem("disks", chosen)
    if wanted.on_different_controllers and (shared := _shared_controller(chosen)):
        return Problem("disks.on_different_controllers", shared)
    return chosen


def choose_data(
    inventory: Inventory, arrays: Sequence[DataArray], system: Sequence[Disk]
) -> tuple[tuple[Disk, ...], ...] | list[Problem]:
    """Return the disks of each array of data, or every reason why there is no single answer.

    What the system or an array before it has taken cannot match any more.
    """
    taken = dict.fromkeys(system, "is a disk of the system")
    chosen: list[tuple[Disk, ...]] = []
    problems: list[Problem] = []
    for number, wanted in enumerate(arrays):
        found = matching(inventory, wanted.where, wanted.count, taken)
        if isinstance(found, str):
            problems.append(Problem(f"storage.data[{number}]", found))
            continue
        taken |= dict.fromkeys(found, f"is a disk of {wanted.name}")
        chosen.append(found)
    return problems or tuple(chosen)


def matching(
    inventory: Inventory, where: Where, count: int, taken: Mapping[Disk, str]
) -> tuple[Disk, ...] | str:
    """Return exactly `count` matching disks, or why not in words; `taken` says what has a disk."""
    order = _order(where)
    verdicts = {disk: tuple(reasons_against(disk, where)) for disk in inventory.disks}
    for disk in inventory.disks:
        used = next((why for one, why in taken.items() if same_device(one, disk)), None)
        if used is not None:
            verdicts[disk] = (used,)
    chosen: list[Disk] = []
    for disk in sorted((disk for disk, reasons in verdicts.items() if not reasons), key=order):
        first = next((one for one in chosen if same_device(one, disk)), None)
        if first is None:
            chosen.append(disk)
        else:
            verdicts[disk] = (f"is another path to {first.path}",)
    if len(chosen) != count:
        return _listing(len(chosen), count, verdicts)
    serials = [disk.serial for disk in (*taken, *chosen) if disk.serial]
    if len(set(serials)) != len(serials):
        return (
            f"{' and '.join(map(str, (*taken, *chosen)))} show the same serial: these may be two "
            "paths to one disk"
        )
    return tuple(chosen)


def same_device(one: Disk, other: Disk) -> bool:
    """Tell whether two block devices are paths to one disk: same World Wide Name, same size."""
    named = one.wwn is not None and _NO_WWN.fullmatch(one.wwn) is None
    return one == other or (named and one.wwn == other.wwn and one.size == other.size)


def reasons_against(disk: Disk, where: Where) -> Iterator[str]:
    """Yield every reason why a disk does not match; none means it does."""
    named = _is_named(disk, where)
    if disk.transport in MUST_BE_NAMED and not named and disk.transport not in where.transport:
        yield f"is attached by {disk.transport} and not named"
    if disk.boot_medium and not named:
        yield "the live system was booted from it, or it holds the plan"
    if disk.read_only:
        yield "is read-only"
    yield from _unmet(disk, where)


def _listing(found: int, count: int, verdicts: Mapping[Disk, Sequence[str]]) -> str:
    # A line for each: two dozen disks in one line are cut off at the end of a console's.
    seen = ";\n".join(
        f"  {disk}, {gib(disk.size)}: {', '.join(reasons) or 'matches'}"
        for disk, reasons in verdicts.items()
    )
    has = f"this machine has\n{seen}" if seen else "this machine has no disk"
    return f"{found} match, the plan counts {count}; {has}"


def _shared_controller(disks: Sequence[Disk]) -> str | None:
    """Return why the disks do not each hang on a controller of their own, None where they do."""
    for number, disk in enumerate(disks):
        if disk.controller is None:
            return f"{disk} does not show which controller it hangs on"
        for other in disks[:number]:
            if other.controller == disk.controller:
                place = PurePosixPath(disk.controller).name
                return f"{other} and {disk} both hang on the controller {place}"
    return None


def _unmet(disk: Disk, where: Where) -> Iterator[str]:
    if where.transport and disk.transport not in where.transport:
        yield f"transport is {disk.transport}, not {' or '.join(where.transport)}"
    for condition in where.size:
        if not condition.holds(disk.size):
            yield f"size {gib(disk.size)} is not {condition}"
    if where.rotational is not None and disk.rotational is not where.rotational:
        yield "spins" if disk.rotational else "does not spin"
    for name in ("serial", "wwn", "model"):
        wanted, has = getattr(where, name), getattr(disk, name)
        if wanted and has not in wanted:
            yield f"{name} is {has or 'not shown'}, not {' or '.join(wanted)}"
    if where.path and not _has_path(disk, where.path):
        yield f"path is not {' or '.join(where.path)}"


def _is_named(disk: Disk, where: Where) -> bool:
    """Tell whether the plan speaks of this very disk; a pattern speaks of any."""
    return bool(named_by(disk, where))


def named_by(disk: Disk, where: Where) -> str:
    """Return by what the plan speaks of this very disk: `serial SN1`; nothing if it does not."""
    paths = sorted({disk.path, *disk.by_id, *disk.by_path} & {*where.path})
    for kind, named in (
        ("serial", disk.serial if disk.serial in where.serial else None),
        ("wwn", disk.wwn if disk.wwn in where.wwn else None),
        ("path", paths[0] if paths else None),
    ):
        if named:
            return f"{kind} {named}"
    return ""


def _has_path(disk: Disk, patterns: Sequence[str]) -> bool:
    paths = (disk.path, *disk.by_id, *disk.by_path)
    return any(fnmatch.fnmatchcase(path, pattern) for path in paths for pattern in patterns)


def _order(where: Where) -> Callable[[Disk], tuple[int, str, str]]:
    """Order as the plan lists them, else by serial: the first disk gets the first boot entry."""
    listed = [*where.serial, *where.wwn, *where.path]

    def key(disk: Disk) -> tuple[int, str, str]:
        names = {disk.serial, disk.wwn, disk.path, *disk.by_id, *disk.by_path}
        place = next((i for i, name in enumerate(listed) if name in names), len(listed))
        return (place, disk.serial or "", str(PurePosixPath(disk.path)))

    return key


def may_erase(disk: Disk, erase: str, machine: str, marks: Collection[str] = ()) -> Problem | None:
    """Return why the plan's `erase` does not allow to destroy what lies on the disk, or None.

    `marks` are UUIDs by which a disk of data shows that it is this machine's.
    """
    if disk.in_use:
        return Problem(str(disk), f"is in use: {', '.join(disk.in_use)}")
    if erase == "any" or (erase == "refuse-foreign" and (disk.blank or disk.ours)):
        return None
    if erase == "owned":
        if disk.marker is not None and disk.marker.machine == machine:
            return None
        if any(content.uuid in marks for content in disk.content):
            return None
        lies = "is blank" if disk.blank else "carries no finished installation of this machine"
        return Problem(str(disk), f"{lies}; disks.erase: owned allows nothing else")
    first = "; ".join(described(content) for content in disk.content[:4])
    more = len(disk.content) - 4
    first += f"; and {more} more" if more > 0 else ""
    return Problem(
        str(disk),
        f"holds foreign data ({first}); nothing was touched: set disks.erase: any to destroy it",
    )
