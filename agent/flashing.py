"""The steps that put an image of a whole disk onto disks; for trees see `agent.sequence`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.inventory.model import Inventory, Marker
from agent.layout.whole import Whole
from agent.payload.fetch import Source
from agent.payload.gpt import Table
from agent.payload.manifest import Manifest
from agent.plan.model import Plan
from agent.steps.base import Step
from agent.steps.clear_disks import ClearDisks
from agent.steps.close_target import CloseTarget
from agent.steps.enter_image import EnterImage
from agent.steps.flash_image import FlashImage
from agent.steps.mirror_disks import MirrorDisks


@dataclass(frozen=True)
class Flashing:
    """What the list is made from; `table` is that of the image."""

    plan: Plan
    inventory: Inventory
    manifest: Manifest
    source: Source
    whole: Whole
    table: Table
    root: Path

    def steps(self) -> tuple[Step, ...]:
        """Return every step in its order."""
        return tuple(self._steps())

    def _steps(self) -> Iterator[Step]:
        whole, esp = self.whole, self.table.esp
        yield ClearDisks(tuple(laid.disk for laid in whole.disks))
        if whole.arrays:
            yield MirrorDisks(whole.arrays)
        yield FlashImage(
            self.manifest,
            self.source,
            whole,
            self.plan.image.verify,
            self._note(),
            esp,
        )
        yield EnterImage(whole, self._system(), esp)
        yield CloseTarget(self.root)

    def _note(self) -> Marker:
        return Marker(
            plan=self.plan.id,
            hostname=self.plan.hostname,
            machine=self.inventory.name,
            finished="",
        )

    def _system(self) -> str:
        os = self.manifest.os
        return f"{os.id} {os.version}".strip() if os else self.manifest.name
