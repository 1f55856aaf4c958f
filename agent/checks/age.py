"""Is the image as new as the plan asks: a good signature does not say that it is the latest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from agent.errors import Problem
from agent.machine import Machine
from agent.payload.described import Described
from agent.payload.manifest import Manifest


@dataclass(frozen=True)
class NewEnough:
    """By the time in the signed manifest; a container is named by its digest and has none."""

    image: Described
    oldest: datetime
    where: str = "image.manifest"

    def describe(self) -> str:
        return f"{self.image.name} was packed at {_shown(self.oldest)} or later"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        if isinstance(self.image, Manifest) and self.image.created < self.oldest:
            made = f"{self.image.name} was packed at {_shown(self.image.created)}"
            asked = f"the plan takes none older than {_shown(self.oldest)}"
            hint = "this mirror has not the one that is meant"
            yield Problem(self.where, f"{made}, {asked}: {hint}")


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
