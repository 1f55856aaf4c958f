"""What a fleet's plans would come to on its machines: alike in groups, and who differs how."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from agent.checks.foreseen import foreseen
from agent.checks.machine import mismatches
from agent.errors import Problem
from agent.fleet.render import clashes
from agent.inventory.model import Inventory
from agent.inventory.unknown import notes
from agent.layout.extents import gib
from agent.layout.model import Layout, VolumeGroup
from agent.layout.whole import Whole
from agent.plan.identity import Identity
from agent.plan.model import Plan
from agent.plan.size import render
from agent.resolve import lay_out


@dataclass(frozen=True)
class Outcome:
    """One plan on its machine: `lines` say what comes of it, without what is special to the host.

    With `problems` there are no lines: it cannot be carried out.
    """

    where: str
    hostname: str
    machine: str
    lines: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    lost: int = 0
    """How many things on the chosen disks would be erased."""
    done: bool = False
    """Whether the machine is installed by this very plan, so that it would do nothing."""


@dataclass(frozen=True)
class Group:
    """Machines that come out alike."""

    lines: tuple[str, ...]
    members: tuple[Outcome, ...]

    def differences(self, other: Group) -> Iterator[str]:
        """Yield the lines that only one of the two has: `-` the other's, `+` this one's."""
        yield from (f"- {line}" for line in other.lines if line not in self.lines)
        yield from (f"+ {line}" for line in self.lines if line not in other.lines)


@dataclass(frozen=True)
class Fleet:
    """All outcomes; the largest group first."""

    groups: tuple[Group, ...]
    failed: tuple[Outcome, ...]
    clashes: tuple[Problem, ...]
    unplanned: tuple[str, ...]
    """Machines that were recorded and that no plan is for."""

    @property
    def works(self) -> bool:
        """Whether every plan can be carried out."""
        return not self.failed and not self.clashes


def compare(
    plans: Sequence[tuple[str, Plan]], machines: Iterable[Inventory], now: datetime
) -> Fleet:
    """Bring plans and machines together by the plans' `machine`, and lay each out.

    Plans that have expired at `now` cannot be carried out.
    """
    known = _Machines(machines)
    outcomes = [_outcome(where, plan, known, now) for where, plan in plans]
    alike: defaultdict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if not outcome.problems:
            alike[outcome.lines].append(outcome)
    groups = [Group(lines, tuple(members)) for lines, members in alike.items()]
    groups.sort(key=lambda group: -len(group.members))
    return Fleet(
        tuple(groups),
        tuple(outcome for outcome in outcomes if outcome.problems),
        tuple(clashes(plans)),
        tuple(known.unused()),
    )


class _Machines:
    """Recorded machines by each of their names, so that 1000 plans do not ask 1000 machines."""

    def __init__(self, machines: Iterable[Inventory]) -> None:
        self._by: defaultdict[tuple[str, str], list[Inventory]] = defaultdict(list)
        self._all = list(machines)
        self._used: set[int] = set()
        for machine in self._all:
            for name in _names(machine):
                self._by[name].append(machine)

    def matching(self, wanted: Identity) -> list[Inventory]:
        """Return the machines that have every name that a plan gives."""
        given = [
            (what, str(value))
            for what, value in (
                ("serial", wanted.serial),
                ("uuid", wanted.uuid),
                ("mac", wanted.mac),
            )
            if value is not None
        ]
        found = [m for m in self._by.get(given[0], ()) if not any(mismatches(wanted, m))]
        self._used.update(map(id, found))
        return found

    def unused(self) -> Iterator[str]:
        return (machine.name for machine in self._all if id(machine) not in self._used)


def _names(machine: Inventory) -> Iterator[tuple[str, str]]:
    if machine.dmi.serial is not None:
        yield "serial", machine.dmi.serial
    if machine.dmi.uuid is not None:
        yield "uuid", str(machine.dmi.uuid)
    for nic in machine.nics:
        yield "mac", nic.mac


def _outcome(where: str, plan: Plan, machines: _Machines, now: datetime) -> Outcome:
    found = machines.matching(plan.machine)
    if len(found) != 1:
        names = plan.machine.model_dump(exclude_none=True)
        given = ", ".join(f"{name} {value}" for name, value in names.items())
        message = f"{len(found) or 'none'} of the recorded machines has {given}, must be one"
        return Outcome(where, plan.hostname, "", (), (Problem("machine", message),))
    (machine,) = found
    layout = lay_out(plan, machine)
    problems = [*foreseen(plan, machine, now), *(layout if isinstance(layout, list) else ())]
    if problems or isinstance(layout, list):
        return Outcome(where, plan.hostname, machine.name, (), tuple(problems))
    lost = sum(len(laid.disk.content) for laid in layout.every_disk)
    lines = (*_system(plan, machine), *described(layout))
    done = machine.installed_by(plan.id) is not None
    return Outcome(where, plan.hostname, machine.name, lines, (), 0 if done else lost, done)


def _system(plan: Plan, machine: Inventory) -> Iterator[str]:
    policy = plan.encryption.unlock if plan.encryption else None
    yield f"unlock {policy or 'nothing: not encrypted'}"
    for place in plan.image.manifest or (plan.image.oci,):
        yield f"image {place}"
    yield from (f"overlay {place}" for overlay in plan.overlays for place in overlay.manifest)
    if plan.disks.secure_erase is not None:
        yield f"secure erase {plan.disks.secure_erase}"
    yield f"finish {plan.finish}"
    if left := [words.partition(":")[0] for words in notes(machine)]:
        yield f"seen only on the machine: {', '.join(left)}"


def described(layout: Layout | Whole) -> Iterator[str]:
    """Yield what a layout is, without serials, UUIDs and device names."""
    for number, laid in enumerate(layout.disks, start=1):
        disk = laid.disk
        yield f"disk {number} {disk.model or 'no model'} {gib(disk.size)} {disk.transport}"
        for partition in laid.partitions:
            yield f"disk {number} {partition.role.value} {gib(partition.size)}"
    for array in layout.arrays:
        yield f"mirror {array.name} of {len(array.members)}, metadata {array.metadata}"
    if isinstance(layout, Whole):
        yield "whole-disk image, as it is"
        return
    if layout.luks is not None:
        yield f"LUKS2 {layout.luks.cipher} {layout.luks.key_size} bit"
    yield from _volumes(layout.group)
    yield from (f"{one.mount} tmpfs {','.join(one.options)}" for one in layout.memory)
    if layout.zram is not None:
        yield f"swap in compressed memory {render(layout.zram)}"
    for one in layout.data:
        yield from (
            f"data {one.name} {laid.disk.model or 'no model'} {gib(laid.disk.size)} "
            f"{laid.disk.transport}"
            for laid in one.disks
        )
        yield f"data {one.name} {one.level} of {len(one.disks)} {gib(one.group.size)}"
        yield from _volumes(one.group)
    yield from layout.deviations


def _volumes(group: VolumeGroup) -> Iterator[str]:
    for volume in group.volumes:
        filesystem = volume.filesystem
        options = ",".join(filesystem.options)
        yield f"{filesystem.mount} {gib(volume.size)} {filesystem.kind} {options}"


def counts(groups: Iterable[Group]) -> Mapping[str, int]:
    """Return how many machines each lettered group has: A is the largest."""
    return {letter(number): len(group.members) for number, group in enumerate(groups)}


def letter(number: int) -> str:
    """Return A for 0, Z for 25, AA for 26."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text
