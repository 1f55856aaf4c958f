"""Can the image do what the plan configures: FIPS mode, a seed for cloud-init."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Problem
from agent.machine import Machine
from agent.payload.described import Described
from agent.plan.configure import Configure
from agent.target import fips
from agent.target.contents import Listed


@dataclass(frozen=True)
class ConfigureFits:
    """By the manifest's own list of what is in the image."""

    manifest: Described
    configure: Configure

    def describe(self) -> str:
        return f"the image {self.manifest.name} has what the plan configures"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        section = self.manifest.tree
        if section is None:  # a whole-disk image is refused by ImageFits
            return
        contents = Listed(section)
        if self.configure.fips:
            yield from fips.problems(self.manifest.name, contents)
        if self.configure.cloud_init is not None and not contents.has("cloud-init"):
            yield Problem(
                "configure.cloud_init",
                f"{self.manifest.name} has no cloud-init that would read the seed: build it with "
                "the package cloud-init, or leave this out",
            )
