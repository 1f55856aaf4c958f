"""Put kernels, initrds and boot entries on every ESP; nothing that the firmware would start yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from agent.layout.model import Layout
from agent.machine import Machine, Progress
from agent.steps.base import Evidence
from agent.steps.esps import mounted_esps
from agent.target.boot import Boot, Host
from agent.target.boot_loader import boot_loader
from agent.target.contents import Unpacked
from agent.target.os_release import os_release
from agent.target.tree import Tree


@dataclass(frozen=True)
class InstallBootLoader:
    """Fill the ESPs alike. Their loaders are copied by `MakeBootable`, when all is proven.

    `options` is the kernel command line of the installed system (`agent.target.kernel_options`).
    """

    root: Path
    layout: Layout
    machine_id: UUID
    options: tuple[str, ...]

    name: ClassVar[str] = "install-boot-loader"
    unit: ClassVar[str] = "bytes"

    def describe(self) -> str:
        esps = "1 ESP" if len(self.layout.esps) == 1 else f"{len(self.layout.esps)} ESPs"
        return f"Install kernel, initrd and boot entries on {esps}"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        tree = Tree(self.root)
        loader = boot_loader(Unpacked(tree), os_release(tree))
        host = Host(os_release(tree), self.machine_id, self.options, self.layout.boot.uuid)
        boot = loader.boot(tree, host, Unpacked(tree).kernels())
        for file in loader.settings(tree, host, self.layout.esps[0].mount):
            tree.write(file)
        loader.prepare(machine.target, self.root)
        written = self._fill(machine, progress, boot)
        return {
            "boot_loader": loader.name,
            "entries": list(boot.entries),
            "options": " ".join(self.options),
            "bytes": written,
        }

    def _fill(self, machine: Machine, progress: Progress, boot: Boot) -> int:
        """Copy the files first and then what names them, to each ESP; return the bytes of one."""
        tree = Tree(self.root)
        total = sum(tree.locate(copy.source).stat().st_size for copy in boot.copies)
        done = 0
        with mounted_esps(machine, self.root, self.layout) as esps:
            for esp in esps:
                for copy in boot.copies:
                    done += esp.copy(tree, copy)
                    progress(done, total * len(esps))
                for path, content in boot.texts:
                    esp.write(path, content)
        return total
