"""Make the file systems."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from agent.layout.model import FileSystem
from agent.machine import Machine, Progress
from agent.steps.base import Evidence


@dataclass(frozen=True)
class MakeFilesystems:
    filesystems: tuple[FileSystem, ...]
    name: str = "make-filesystems"

    def describe(self) -> str:
        kinds = Counter(filesystem.kind for filesystem in self.filesystems)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return f"Make {len(self.filesystems)} file systems: {counts}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        machine.storage.make_filesystems(self.filesystems, progress)
        return {
            "filesystems": [
                {"mount": fs.mount, "kind": fs.kind, "uuid": fs.uuid, "label": fs.label}
                for fs in self.filesystems
            ]
        }
