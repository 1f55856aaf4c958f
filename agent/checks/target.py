"""Can the image work on this layout: is there a kernel in it, Clevis, a boot loader."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.errors import Problem
from agent.layout.model import Layout
from agent.machine import Machine
from agent.payload.described import Described
from agent.plan.encryption import Encryption
from agent.target import family
from agent.target.contents import Listed
from agent.target.needs import Needs
from agent.target.os_release import OsRelease


@dataclass(frozen=True)
class TargetWorks:
    """Everything the installed system needs is in the image, by the manifest's own list."""

    manifest: Described
    layout: Layout
    encryption: Encryption | None
    architecture: str = field(default_factory=platform.machine)

    def describe(self) -> str:
        return f"the image {self.manifest.name} has what this machine needs to boot"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        section = self.manifest.tree
        if section is None:  # a whole-disk image is refused by ImageFits
            return
        if section.architecture not in (None, self.architecture):
            yield Problem(
                "image.manifest",
                f"{self.manifest.name} is built for {section.architecture}, this machine is "
                f"{self.architecture}",
            )
        os = OsRelease()
        if self.manifest.os is not None:
            os = OsRelease(id=self.manifest.os.id, like=self.manifest.os.like)
        needs = Needs.of(self.layout, self.encryption.unlock if self.encryption else None)
        yield from family.problems(
            self.manifest.name, Listed(section), os, needs, self.architecture
        )
