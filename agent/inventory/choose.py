"""Choose the target disks: exactly as many as the plan counts, or a problem that shows them all.

Zero or too many matches is never resolved by taking the first: a wrong disk is a lost server.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from agent.errors import Problem
from agent.inventory.model import Disk, Inventory
from agent.layout.extents import gib
from agent.plan.disks import Disks, Where

MUST_BE_NAMED = frozenset({"usb", "fc", "iscsi", "mmc"})
"""Transports that are taken only when the plan names them: removable or shared with others."""


def choose(inventory: Inventory, wanted: Disks) -> tuple[Disk, ...] | Problem:
    """Return the matching disks in a stable order (serial), or why there is no single answer."""
    verdicts = [(disk, tuple(reasons_against(disk, wanted.where))) for disk in inventory.disks]
    matching = [disk for disk, reasons in verdicts if not reasons]
    if len(matching) != wanted.count:
        seen = "; ".join(
            f"{disk}, {gib(disk.size)}: {', '.join(reasons) or 'matches'}"
            for disk, reasons in verdicts
        )
        return Problem(
            "disks",
            f"{len(matching)} match, the plan counts {wanted.count}; "
            + (f"this machine has {seen}" if seen else "this machine has no disk"),
        )
    serials = [disk.serial for disk in matching if disk.serial]
    if len(set(serials)) != len(serials):
        return Problem(
            "disks",
            f"{' and '.join(map(str, matching))} show the same serial: these may be two paths to "
            "one disk",
        )
    return tuple(sorted(matching, key=_order(wanted.where)))


def reasons_against(disk: Disk, where: Where) -> Iterator[str]:
    """Yield every reason why a disk does not match; none means it does."""
    named = _is_named(disk, where)
    if disk.transport in MUST_BE_NAMED and not named and disk.transport not in where.transport:
        yield f"is attached by {disk.transport} and not named"
    if disk.boot_medium and not named:
        yield "the live system was booted from it"
    if disk.read_only:
        yield "is read-only"
    yield from _unmet(disk, where)


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
    return disk.serial in where.serial or disk.wwn in where.wwn or _has_path(disk, where.path)


def _has_path(disk: Disk, patterns: Sequence[str]) -> bool:
    paths = (disk.path, *disk.by_id)
    return any(fnmatch.fnmatchcase(path, pattern) for path in paths for pattern in patterns)


def _order(where: Where) -> Callable[[Disk], tuple[int, str, str]]:
    """Order as the plan lists them, else by serial: the first disk gets the first boot entry."""
    listed = [*where.serial, *where.wwn, *where.path]

    def key(disk: Disk) -> tuple[int, str, str]:
        names = {disk.serial, disk.wwn, disk.path, *disk.by_id}
        place = next((i for i, name in enumerate(listed) if name in names), len(listed))
        return (place, disk.serial or "", str(PurePosixPath(disk.path)))

    return key


def may_erase(disk: Disk, erase: str, machine: str) -> Problem | None:
    """Return why the plan's `erase` does not allow to destroy what lies on the disk, or None."""
    if disk.in_use:
        return Problem(str(disk), f"is in use: {', '.join(disk.in_use)}")
    if erase == "any" or (erase == "refuse-foreign" and (disk.blank or disk.ours)):
        return None
    if erase == "owned":
        if disk.marker is not None and disk.marker.machine == machine:
            return None
        lies = "is blank" if disk.blank else "carries no finished installation of this machine"
        return Problem(str(disk), f"{lies}; disks.erase: owned allows nothing else")
    first = "; ".join(
        f"{content.device} {content.kind}" + (f' "{content.label}"' if content.label else "")
        for content in disk.content[:4]
    )
    return Problem(
        str(disk),
        f"holds foreign data ({first}); nothing was touched: set disks.erase: any to destroy it",
    )
