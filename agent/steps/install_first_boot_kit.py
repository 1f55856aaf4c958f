"""Leave behind what works in the installed system: ESPs kept equal, the TPM sealed once more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agent.machine import Machine, Progress
from agent.steps.base import Evidence
from agent.target.kit import Kit
from agent.target.tree import Tree


@dataclass(frozen=True)
class InstallFirstBootKit:
    """Write the kit's files and enable its units."""

    root: Path
    kit: Kit

    name: ClassVar[str] = "install-first-boot-kit"
    unit: ClassVar[str] = "files"

    def describe(self) -> str:
        units = ", ".join(unit for _, unit in self.kit.enabled) or "nothing"
        return f"Install what runs in the installed system: {units}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        del machine
        self.kit.write(Tree(self.root))
        progress(len(self.kit.files), len(self.kit.files))
        return {
            "files": [str(file.path) for file in self.kit.files],
            "units": [unit for _, unit in self.kit.enabled],
        }
