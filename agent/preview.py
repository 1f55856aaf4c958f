"""Everything that a plan would do to a machine, told before anything moves.

Pure: what is not known here, such as an image that could not be asked for, is said and not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from agent.errors import Problem
from agent.inventory.model import Inventory
from agent.inventory.unknown import notes
from agent.inventory.why import Verdict, verdicts
from agent.layout.extents import gib
from agent.layout.model import Layout
from agent.layout.picture import losses, plain, tree
from agent.layout.whole import Whole
from agent.machine import Advertisement
from agent.payload.contents import Tree
from agent.payload.described import Described
from agent.payload.fetch import Source
from agent.payload.manifest import Os, Payload
from agent.plan.in_words import unlock_in_words
from agent.plan.model import Plan
from agent.sequence import Decided, sequence
from agent.steps.base import Step
from agent.steps.clear_disks import ClearDisks
from agent.steps.mirror_disks import MirrorDisks


@dataclass(frozen=True)
class Preview:
    """One plan on one machine. `image` is what was found, or why it was not.

    `steps` are names and sentences, in the order in which they would be done.
    """

    plan: Plan
    machine: Inventory
    layout: Layout | Whole
    image: Described | str
    steps: tuple[tuple[str, str], ...]
    refused: tuple[Problem, ...] = ()
    """What the checks on the machine will refuse for certain."""
    overlays: tuple[Described | str, ...] = ()
    """What was found of each of the plan's overlays, or why nothing was."""

    @property
    def chosen(self) -> tuple[Verdict, ...]:
        """Why each disk is taken or not; those that are come first."""
        laid = self.layout
        data = [one.disks for one in laid.data] if isinstance(laid, Layout) else []
        disks = [[each.disk for each in group] for group in (laid.disks, *data)]
        return tuple(verdicts(self.plan, self.machine, disks[0], disks[1:]))

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the image comes from: addresses of manifests, or a container's."""
        image = self.plan.image
        return tuple(image.manifest) if image.oci is None else (str(image.oci),)

    def lines(self, now: datetime | None = None) -> Iterator[str]:
        """Yield the preview for people; `now` is what the age of a loss is counted to."""
        yield f"plan {self.plan.id} for {self.plan.hostname}"
        yield f"machine {self.machine.name}"
        done = self.machine.installed_by(self.plan.id)
        if done is not None:
            yield f"installed already: this plan was carried out at {done.finished}, install would"
            yield "  do nothing and boot it; a new installation needs a new id. It would be:"
        for verdict in self.chosen:
            use = "the system" if verdict.use == "system" else verdict.use
            taken = f"takes {verdict.disk} for {use}" if use else f"leaves {verdict.disk} alone"
            yield f"{taken}: {'; '.join(verdict.why)}"
        yield from tree(self.layout)
        if self.plan.encryption is not None:
            yield f"unlock: {self.plan.encryption.unlock}"
            yield from (f"  {words}" for words in unlock_in_words(self.plan.encryption))
        elif isinstance(self.layout, Layout):
            yield "unlock: nothing, the disks are not encrypted"
        lost = [line for laid in self.layout.every_disk for line in losses(laid.disk, now)]
        yield from (f"LOST: {line}" for line in lost)
        if any("content" in laid.disk.unknown for laid in self.layout.every_disk):
            yield "what is lost is not known: these facts do not say what lies on the disks"
        elif not lost:
            yield "nothing is lost: the disks are blank"
        yield from self._image()
        for number, (_, title) in enumerate(self.steps, start=1):
            yield f"{number:>3}. {title}"
        yield from self.layout.deviations
        for one in self.plan.storage.preset.unmet:
            yield f"left open by {self.plan.storage.preset.name}: {', '.join(one.rules)}: {one.why}"
        yield from (
            f"not known before the machine is seen: {words}" for words in notes(self.machine)
        )
        yield f"then: {self.plan.finish}"

    def _image(self) -> Iterator[str]:
        yield from _told("image", self.image, self.sources)
        for wanted, found in zip(self.plan.overlays, self.overlays, strict=True):
            yield from _told("overlay", found, wanted.manifest)

    def plain(self) -> dict[str, Any]:
        """Return the preview as JSON-able data; sizes are bytes, what is not known is null."""
        encryption = self.plan.encryption
        done = self.machine.installed_by(self.plan.id)
        return {
            "plan": str(self.plan.id),
            "hostname": self.plan.hostname,
            "machine": self.machine.name,
            "installed_already": done and done.finished,
            "chosen": [
                {
                    "path": verdict.disk.path,
                    "serial": verdict.disk.serial,
                    "size": verdict.disk.size,
                    "use": verdict.use,
                    "why": list(verdict.why),
                }
                for verdict in self.chosen
            ],
            "layout": plain(self.layout),
            "lost": [line for laid in self.layout.every_disk for line in losses(laid.disk)],
            "unlock": None
            if encryption is None
            else {
                "policy": str(encryption.unlock),
                "words": list(unlock_in_words(encryption)),
            },
            "sources": list(self.sources),
            "fetch": _fetch(self.image),
            "overlays": [
                {"sources": list(wanted.manifest), "fetch": _fetch(found)}
                for wanted, found in zip(self.plan.overlays, self.overlays, strict=True)
            ],
            "steps": [{"name": name, "title": title} for name, title in self.steps],
            "deviations": list(self.layout.deviations),
            "left_open": [
                {"rules": list(one.rules), "why": one.why} for one in self.plan.storage.preset.unmet
            ],
            "unknown": list(notes(self.machine)),
            "refused": [{"where": one.where, "message": one.message} for one in self.refused],
            "finish": self.plan.finish,
        }


def _told(what: str, found: Described | str, sources: Sequence[str]) -> Iterator[str]:
    if isinstance(found, str):
        yield f"{what}: how much there is to fetch is not known: {found}"
    else:
        fetched = f"{gib(found.payload.size)} to fetch, {gib(found.size)} unpacked"
        yield f"{what} {found.name}  {fetched}"
    for number, url in enumerate(sources):
        yield f"  {'mirror' if number else 'from'} {url}"


def _fetch(found: Described | str) -> dict[str, Any]:
    image = None if isinstance(found, str) else found
    return {
        "image": image and image.name,
        "bytes": image and image.payload.size,
        "unpacked": image and image.size,
        "unknown": found if image is None else None,
    }


@dataclass(frozen=True)
class Unread:
    """Stands where an image would whose manifest was not read: it has a name and nothing else."""

    name: str
    kind: Literal["tree", "disk"] = "tree"
    os: Os | None = None
    size: int = 0
    sha256: str = ""
    payload: Payload = field(default_factory=lambda: Payload(urls=("unread",), size=0))
    tree: Tree | None = None


NOWHERE = Source("", "", "", (), frozenset())


def preview(
    plan: Plan,
    machine: Inventory,
    layout: Layout | Whole,
    image: Described | str,
    *,
    refused: Sequence[Problem] = (),
    overlays: Sequence[Described | str] = (),
) -> Preview:
    """Return the preview of a layout; `image` is its manifest, or why that was not read.

    So are `overlays`, one for each of the plan's.
    """
    found = (*overlays, *("it was not asked",) * (len(plan.overlays) - len(overlays)))
    unread = dict(_unread(plan, image, found))
    steps = tuple(
        (step.name, unread.get(step.name, "") or step.describe())
        for step in _steps(plan, machine, layout, image, found)
    )
    if isinstance(layout, Whole):
        steps += (
            ("flash-image", f"Write the image to {layout.device} and read it back"),
            ("enter-image", f"Make a boot entry for {layout.device}, where the image has an ESP"),
            ("close-target", "Close the disks"),
        )
    if plan.disks.secure_erase is not None:
        way = plan.disks.secure_erase
        erase = "by the first way that it has" if way == "auto" else f"by {way}"
        steps = (("secure-erase", f"Have each disk forget everything, {erase}"), *steps)
    return Preview(plan, machine, layout, image, steps, tuple(refused), found)


def _unread(
    plan: Plan, image: Described | str, overlays: Sequence[Described | str]
) -> Iterator[tuple[str, str]]:
    """Yield what the steps are called that write what was not read: by its address."""
    if isinstance(image, str):
        yield "write-image", f"Write the image of {(*plan.image.manifest, plan.image.oci)[0]}"
    for number, (wanted, found) in enumerate(zip(plan.overlays, overlays, strict=True), start=1):
        if isinstance(found, str):
            yield f"write-overlay-{number}", f"Lay the image of {wanted.manifest[0]} over it"


def of_steps(
    plan: Plan,
    machine: Inventory,
    layout: Layout | Whole,
    images: Sequence[Described],
    steps: Sequence[Step],
) -> Preview:
    """Return the preview of an order that was decided, with its own steps.

    `images` are the image and its overlays.
    """
    told = tuple((step.name, step.describe()) for step in steps)
    image, *overlays = images
    return Preview(plan, machine, layout, image, told, overlays=tuple(overlays))


def _steps(
    plan: Plan,
    machine: Inventory,
    layout: Layout | Whole,
    image: Described | str,
    overlays: Sequence[Described | str],
) -> Iterator[Step]:
    if isinstance(layout, Whole):
        yield ClearDisks(tuple(laid.disk for laid in layout.disks))
        if layout.arrays:
            yield MirrorDisks(layout.arrays)
        return
    # What only describes itself needs neither keys of servers nor a payload.
    servers = plan.encryption.tang if plan.encryption else ()
    yield from sequence(
        Decided(
            plan=plan,
            inventory=machine,
            manifest=Unread("the image") if isinstance(image, str) else image,
            source=NOWHERE,
            overlays=tuple(
                (Unread("the overlay") if isinstance(one, str) else one, NOWHERE)
                for one in overlays
            ),
            layout=layout,
            advertisements=tuple(Advertisement(one.url, "", "{}") for one in servers),
            now=datetime(1970, 1, 1, tzinfo=UTC),
            root=Path("/run/bedplate/target"),
        )
    )
