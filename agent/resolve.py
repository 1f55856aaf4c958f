"""Plan × inventory → everything decided: the layout, and the steps in their order.

Reads only. Whatever is wrong with the plan on this machine comes out together: a missing disk, a
wrong thumbprint and a bad signature are one answer, not three boots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from agent.checks.age import NewEnough
from agent.checks.base import Check
from agent.checks.configure import ConfigureFits
from agent.checks.disk_image import DiskImageFits
from agent.checks.disks import ErasableDisks, UniqueNames
from agent.checks.erasure import DisksForget, ways
from agent.checks.escrow import EscrowReady
from agent.checks.image import ImageFits, PayloadThere
from agent.checks.machine import AbleMachine, RightMachine, StillValid
from agent.checks.network import CardsThere, ReachesTang
from agent.checks.overlay import OverlayFits
from agent.checks.report import ReportsListen
from agent.checks.tang import BindingFits, TangReady
from agent.checks.target import TargetWorks
from agent.checks.tpm import TpmReady
from agent.engine import examine
from agent.errors import ImageError, MachineError, PlanError, Problem, reading_only
from agent.flashing import Flashing
from agent.inventory.choose import choose, choose_data, may_erase, same_device
from agent.inventory.model import Disk, Inventory, Marker
from agent.inventory.unknown import undecided
from agent.layout.data import marks, place_data
from agent.layout.model import DataLayout, Layout, Role
from agent.layout.picture import losses, plain, tree
from agent.layout.place import Names, place
from agent.layout.whole import Whole, place_whole
from agent.machine import Machine, Progress
from agent.payload import gpt
from agent.payload.described import Described
from agent.payload.fetch import Source
from agent.payload.layered import layered
from agent.payload.manifest import Manifest
from agent.payload.options import Access
from agent.pin import verified
from agent.plan.model import Plan
from agent.plan.wish import wish
from agent.proxy import Proxies
from agent.sequence import Decided, sequence
from agent.steps.base import Step
from agent.steps.secure_erase import SecureErase


@dataclass(frozen=True)
class Order:
    """One installation, decided in full."""

    plan: Plan
    inventory: Inventory
    manifest: Described
    layout: Layout | Whole
    steps: tuple[Step, ...]
    esps: tuple[UUID, ...]
    """PARTUUIDs of the ESPs that will boot it."""
    overlays: tuple[Described, ...] = ()
    """What is laid over the image."""

    def summary(self) -> dict[str, Any]:
        """Return what is about to happen, for the event of the check phase."""
        return {
            "hostname": self.plan.hostname,
            "image": self.manifest.name,
            "disks": [str(laid.disk) for laid in self.layout.every_disk],
            "lost": [line for laid in self.layout.every_disk for line in losses(laid.disk)],
            "layout": list(tree(self.layout)),
            "deviations": list(self.layout.deviations),
        }

    def report(self) -> dict[str, Any]:
        """Return what was installed, for the install report."""
        return {
            "hostname": self.plan.hostname,
            "machine": self.inventory.name,
            "image": _of(self.manifest),
            "overlays": [_of(overlay) for overlay in self.overlays],
            "preset": self._preset(),
            "picture": list(tree(self.layout)),
            "layout": plain(self.layout),
        }

    def _preset(self) -> dict[str, Any]:
        """Return whose rules the layout was made by, and which of them the preset leaves open."""
        preset = self.plan.storage.preset
        left_open = [f"{', '.join(one.rules)}: {one.why}" for one in preset.unmet]
        return {"name": preset.name, "benchmark": preset.benchmark, "left_open": left_open}


def _of(image: Described) -> dict[str, Any]:
    return {"name": image.name, "sha256": image.sha256, "size": image.size}


def esps(plan: Plan, inventory: Inventory, marker: Marker) -> tuple[UUID, ...]:
    """Return the PARTUUIDs of the ESPs of a finished installation by this plan."""
    if plan.storage.whole:
        return () if marker.esp is None else (marker.esp,)
    return Names(plan.id, inventory.name).esps(plan.disks.count)


def lay_out(plan: Plan, inventory: Inventory) -> Layout | Whole | list[Problem]:
    """Choose the disks and place everything on them, or return every reason why not. Pure."""
    if unclear := list(undecided(plan, inventory)):
        return unclear
    chosen = choose(inventory, plan.disks)
    if isinstance(chosen, Problem):
        return [chosen]
    names = Names(plan.id, inventory.name)
    refused = [
        problem
        for disk in chosen
        if (problem := may_erase(disk, plan.disks.erase, inventory.name)) is not None
    ]
    placed: Layout | Whole | list[Problem]
    if plan.storage.whole:
        placed = place_whole(chosen, names)
    else:
        placed = _place(plan, inventory, chosen, names)
    if isinstance(placed, list):
        return [*refused, *placed]
    return refused or placed


def _place(
    plan: Plan, inventory: Inventory, chosen: Sequence[Disk], names: Names
) -> Layout | list[Problem]:
    """Place the system on the chosen disks, and data on disks that are chosen here."""
    wishes, encrypted = wish(plan), plan.encryption is not None
    system = place(chosen, wishes, names, encrypted=encrypted)
    problems = system if isinstance(system, list) else []
    further = choose_data(inventory, plan.storage.data, chosen)
    if isinstance(further, list):
        return [*problems, *further]
    data = []
    for number, (disks, wanted) in enumerate(zip(further, wishes.data, strict=True)):
        marks = _marks(chosen, inventory, wanted.name)
        refused = [may_erase(disk, plan.disks.erase, inventory.name, marks) for disk in disks]
        problems += [problem for problem in refused if problem is not None]
        laid = place_data(disks, wanted, wishes.volume_group, names, encrypted=encrypted)
        if isinstance(laid, DataLayout):
            data.append(laid)
            continue
        at = f"storage.data[{number}]"
        problems += [Problem(f"{at}.{each.where}", each.message) for each in laid]
    if problems or isinstance(system, list):
        return problems
    return replace(system, data=tuple(data))


def _marks(system: Sequence[Disk], inventory: Inventory, name: str) -> frozenset[str]:
    """Return what an array of data carries that came with the installation on the system's disks.

    Those carry a marker, disks of data do not: but their UUIDs follow from its plan.
    """
    markers = (disk.marker for disk in system if disk.marker is not None)
    plans = {marker.plan for marker in markers if marker.machine == inventory.name}
    return frozenset(mark for plan in plans for mark in marks(Names(plan, inventory.name), name))


def resolve(
    plan: Plan, inventory: Inventory, machine: Machine, now: datetime, progress: Progress
) -> Order:
    """Decide everything and look at everything; raise `MachineError` with all problems."""
    problems: list[Problem] = []
    layout = lay_out(plan, inventory)
    if isinstance(layout, list):
        problems += layout
    image = _image(plan, machine)
    overlays = [_overlay(plan, number, machine) for number in range(len(plan.overlays))]
    problems += [found for found in (image, *overlays) if isinstance(found, Problem)]
    over = {
        number: found for number, found in enumerate(overlays) if not isinstance(found, Problem)
    }
    checks = [*_always(plan, inventory, now)]
    if not isinstance(image, Problem):
        checks += _of_images(plan, image, over)
    if not isinstance(layout, list):
        checks += _of_layout(plan, layout, inventory)
    if not isinstance(layout, list) and not isinstance(image, Problem):
        together = layered(image[0], [overlay for overlay, _ in over.values()])
        checks += _of_both(plan, layout, together, image[1])
    found = (*examine(checks, machine, progress), *problems)
    problems = [_placed(problem, plan) for problem in found]
    if problems or isinstance(layout, list) or isinstance(image, Problem):
        raise MachineError(problems)
    if isinstance(layout, Whole):
        return _flashed(plan, inventory, layout, image, machine)
    erasing = _erasing(plan, layout, machine)
    servers = plan.encryption.tang if plan.encryption else ()
    with reading_only():  # a server that answered a moment ago may be gone now
        trusted = tuple(verified(server, machine.tang) for server in servers)
    steps = sequence(
        Decided(
            plan=plan,
            inventory=inventory,
            manifest=image[0],
            source=image[1],
            layout=layout,
            advertisements=trusted,
            now=now,
            root=machine.root,
            authorities=machine.authorities,
            overlays=tuple(over.values()),
        )
    )
    boots = Names(plan.id, inventory.name).esps(plan.disks.count)
    laid = tuple(overlay for overlay, _ in over.values())
    return Order(plan, inventory, image[0], layout, (*erasing, *steps), boots, laid)


def _flashed(
    plan: Plan,
    inventory: Inventory,
    whole: Whole,
    image: tuple[Described, Source],
    machine: Machine,
) -> Order:
    """Return the order for a whole-disk image, whose own table says what will boot."""
    manifest, source = image
    assert isinstance(manifest, Manifest)
    with reading_only():
        table = gpt.parse(machine.images.head(manifest, source))
    flashing = Flashing(plan, inventory, manifest, source, whole, table, machine.root)
    boots = (table.esp.partuuid,) if table.esp else ()
    steps = (*_erasing(plan, whole, machine), *flashing.steps())
    return Order(plan, inventory, manifest, whole, steps, boots)


def _erasing(plan: Plan, layout: Layout | Whole, machine: Machine) -> tuple[Step, ...]:
    """Return the step by which the disks forget everything, where the plan asks for it."""
    if plan.disks.secure_erase is None:
        return ()
    disks = tuple(laid.disk for laid in layout.every_disk)
    with reading_only():
        return (SecureErase(disks, ways(disks, plan.disks.secure_erase, machine)),)


def _always(plan: Plan, inventory: Inventory, now: datetime) -> Iterator[Check]:
    """Yield the checks that need neither a layout nor an image."""
    yield RightMachine(plan.machine, inventory)
    yield AbleMachine(inventory)
    yield StillValid(plan.expires, now)
    yield CardsThere(plan.configure.network, inventory)
    yield ReportsListen()
    if plan.encryption is not None:
        if plan.encryption.unlock.tpm2:
            yield TpmReady(plan.encryption.tpm2.pcrs)
        yield from (TangReady(server) for server in plan.encryption.tang)
        yield BindingFits(plan.encryption)
        yield EscrowReady(plan.encryption.recovery.escrow_to)


def _of_layout(plan: Plan, layout: Layout | Whole, inventory: Inventory) -> Iterator[Check]:
    chosen = tuple(laid.disk for laid in layout.every_disk)
    yield ErasableDisks(chosen)
    if plan.disks.secure_erase is not None:
        yield DisksForget(chosen, plan.disks.secure_erase)
    if isinstance(layout, Layout):
        yield UniqueNames(layout, _others(chosen, inventory))


def _others(chosen: tuple[Disk, ...], inventory: Inventory) -> tuple[Disk, ...]:
    """Return the disks that stay as they are; another path to a chosen one is not one of them."""
    return tuple(
        disk for disk in inventory.disks if not any(same_device(disk, one) for one in chosen)
    )


def _of_both(
    plan: Plan, layout: Layout | Whole, manifest: Described, source: Source
) -> Iterator[Check]:
    if isinstance(layout, Whole):
        yield DiskImageFits(manifest, source, layout)
        return
    yield ImageFits(manifest, layout, layout.disks[0].partition(Role.BOOT).size)
    yield TargetWorks(manifest, layout, plan.encryption)
    yield ConfigureFits(manifest, plan.configure)
    if plan.encryption is not None and plan.encryption.unlock.tang:
        yield ReachesTang(manifest, plan.configure.network)


def _of_images(
    plan: Plan,
    image: tuple[Described, Source],
    overlays: Mapping[int, tuple[Described, Source]],
) -> Iterator[Check]:
    """Yield the checks of each image by itself."""
    yield PayloadThere(*image)
    if plan.image.not_older_than is not None:
        yield NewEnough(image[0], plan.image.not_older_than)
    for number, (overlay, source) in overlays.items():
        where, oldest = f"overlays[{number}].manifest", plan.overlays[number].not_older_than
        yield PayloadThere(overlay, source, where)
        yield OverlayFits(overlay, image[0], where)
        if oldest is not None:
            yield NewEnough(overlay, oldest, where)


def _overlay(plan: Plan, number: int, machine: Machine) -> tuple[Described, Source] | Problem:
    wanted = plan.overlays[number]
    try:
        return machine.images.find(wanted.manifest, Access(wanted.token, _proxies(plan)))
    except (ImageError, PlanError) as error:
        return Problem(f"overlays[{number}].manifest", str(error))


def _proxies(plan: Plan) -> Proxies | None:
    image = plan.image
    return Proxies.through(image.proxy, image.no_proxy) if image.proxy else None


def _image(plan: Plan, machine: Machine) -> tuple[Described, Source] | Problem:
    image = plan.image
    try:
        access = Access(image.token, _proxies(plan))
        if image.oci is not None:
            return machine.images.survey(image.oci, access)
        return machine.images.find(image.manifest, access)
    except (ImageError, PlanError) as error:
        return Problem("image.manifest", str(error))


def _placed(problem: Problem, plan: Plan) -> Problem:
    """Return a problem of the image with the key by which this plan names it."""
    if plan.image.oci is not None and problem.where == "image.manifest":
        return Problem("image.oci", problem.message)
    return problem
