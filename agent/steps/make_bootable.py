"""The last writes: what makes the disks start, and the note that they are done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from agent.errors import StepError
from agent.inventory.model import Marker
from agent.layout.model import Layout, Role
from agent.machine import Machine, Progress
from agent.steps.base import Evidence
from agent.steps.boot_entries import label, remove_stale
from agent.steps.esps import mounted_esps
from agent.steps.prove_target import all_equal, summary
from agent.target import marker
from agent.target.boot import Copy
from agent.target.boot_loader import boot_loader
from agent.target.contents import Unpacked
from agent.target.esp import Esp
from agent.target.os_release import os_release
from agent.target.tree import Tree


@dataclass(frozen=True)
class MakeBootable:
    """Firmware entries, then the loaders on every ESP, then the marker: each needs those before it.

    Until the loaders are there the entries lead nowhere and the firmware goes on to the network;
    without the marker a machine that always boots from the network installs again.
    """

    root: Path
    layout: Layout
    plan: UUID
    hostname: str
    machine: str

    name: ClassVar[str] = "make-bootable"
    unit: ClassVar[str] = "ESPs"

    def describe(self) -> str:
        number = len(self.layout.disks)
        disks = (
            "the disk bootable and mark it"
            if number == 1
            else f"{number} disks bootable and mark them"
        )
        return f"Make {disks} as installed"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        tree = Tree(self.root)
        loaders = boot_loader(Unpacked(tree), os_release(tree)).loaders(tree)
        # Before an ESP is mounted over them: in RHEL they lie in /boot/efi.
        programs = {copy.destination: tree.read_bytes(copy.source) for copy in loaders}
        ours = [disk.partition(Role.ESP).partuuid for disk in self.layout.disks]
        erased = [disk.disk for disk in self.layout.every_disk]
        removed = remove_stale(machine, ours, erased)
        labels = self._create_entries(machine, os_release(tree).name, loaders[0])
        done = Marker(
            plan=self.plan,
            hostname=self.hostname,
            machine=self.machine,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with (
            mounted_esps(machine, self.root, self.layout) as esps,
            _undone_on_failure(esps, list(programs)),
        ):
            for destination, content in programs.items():
                for esp in esps:
                    esp.write(destination, content)
            for number, esp in enumerate(esps, start=1):
                esp.write(marker.PATH, marker.render(done))
                progress(number, len(esps))
            files = all_equal([esp.digests() for esp in esps])
        return {
            "boot_entries": list(reversed(labels)),
            "entries_removed": list(removed),
            "marker": marker.PATH,
            "esp_digest": summary(files),
            "finished": done.finished,
        }

    def _create_entries(self, machine: Machine, system: str, loader: Copy) -> list[str]:
        """Create an entry per disk; the last one created boots first, so disk 1 comes last."""
        labels = []
        for number, disk in reversed(list(enumerate(self.layout.disks, start=1))):
            named = label(system, number, disk.disk)
            machine.firmware.create(
                named,
                disk=Path(disk.disk.path),
                partition=disk.partition(Role.ESP).number,
                loader="\\" + loader.destination.replace("/", "\\"),
            )
            labels.append(named)
        return labels


@contextlib.contextmanager
def _undone_on_failure(esps: Sequence[Esp], paths: Sequence[str]) -> Iterator[None]:
    """Take the loaders away again when one of them could not be written: no disk may boot then."""
    try:
        yield
    except BaseException:
        for esp in esps:
            for path in (marker.PATH, *paths):
                with contextlib.suppress(StepError):
                    esp.remove(path)
        raise
