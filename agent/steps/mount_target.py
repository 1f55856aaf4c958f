"""Mount the new file systems as the installed system will see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.layout.model import FileSystem
from agent.machine import Machine, Progress
from agent.steps.base import Evidence


@dataclass(frozen=True)
class MountTarget:
    filesystems: tuple[FileSystem, ...]
    root: Path
    name: str = "mount-target"

    def describe(self) -> str:
        return f"Mount {len(self.filesystems)} file systems below {self.root}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        machine.mounts.attach(self.filesystems, self.root)
        return {"root": str(self.root), "mounts": [fs.mount for fs in self.filesystems]}
