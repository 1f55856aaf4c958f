"""Can an overlay be laid over the image: is it a tree, and of the same architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Problem
from agent.machine import Machine
from agent.payload.described import Described


@dataclass(frozen=True)
class OverlayFits:
    """One of the plan's `overlays`, by its manifest; `where` is its place in the plan."""

    overlay: Described
    image: Described
    where: str

    def describe(self) -> str:
        return f"the overlay {self.overlay.name} can be laid over {self.image.name}"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        if self.overlay.tree is None:
            message = f"{self.overlay.name} is an image of a whole disk: an overlay is a tree"
            yield Problem(self.where, message)
            return
        over, under = self.overlay.tree, self.image.tree
        built = over.architecture
        if under is not None and built not in (None, under.architecture) and under.architecture:
            yield Problem(
                self.where,
                f"{self.overlay.name} is built for {built}, {self.image.name} for "
                f"{under.architecture}",
            )
