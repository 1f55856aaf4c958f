"""Read back what was written, before anything is made bootable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from agent.errors import StepError
from agent.layout.model import Layout
from agent.machine import Machine, MirrorState, Progress
from agent.steps.base import Evidence, Json
from agent.steps.esps import mounted_esps
from agent.target.boot import Host
from agent.target.boot_loader import boot_loader
from agent.target.contents import Unpacked
from agent.target.os_release import os_release
from agent.target.tree import Tree


@dataclass(frozen=True)
class ProveTarget:
    """Prove fstab, the ESPs and the mirrors; the first thing that is not so is a `StepError`."""

    root: Path
    layout: Layout
    machine_id: UUID
    options: tuple[str, ...]

    name: ClassVar[str] = "prove-target"
    unit: ClassVar[str] = "proofs"

    def describe(self) -> str:
        return "Prove the installed system: fstab, equal ESPs, whole mirrors"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        verified = machine.mounts.verify_fstab(self.root)
        progress(1, 3)
        mirrors = mirrors_are_whole(self.layout, machine.kernel.mirrors())
        progress(2, 3)
        with mounted_esps(machine, self.root, self.layout) as esps:
            listings = [esp.digests() for esp in esps]
        files = all_equal(listings)
        for path in self._expected():
            if path not in files:
                raise StepError(f"{self.layout.esps[0].mount}/{path}: is missing")
        progress(3, 3)
        return {
            "fstab": verified.strip(),
            "mirrors": mirrors,
            "esps": len(listings),
            "esp_files": len(files),
            "esp_digest": summary(files),
        }

    def _expected(self) -> Iterator[str]:
        tree = Tree(self.root)
        loader = boot_loader(Unpacked(tree), os_release(tree))
        host = Host(os_release(tree), self.machine_id, self.options, self.layout.boot.uuid)
        yield from loader.boot(tree, host, Unpacked(tree).kernels()).paths


def mirrors_are_whole(layout: Layout, states: Sequence[MirrorState]) -> dict[str, Json]:
    """Return array -> members and sync state; raise unless all members of all are active."""
    by_name = {state.name: state for state in states}
    whole: dict[str, Json] = {}
    for array in layout.every_array:
        state = by_name.get(array.name)
        wanted = len(array.members)
        if state is None:
            raise StepError(f"{array.path}: is not running")
        if state.active < wanted:
            raise StepError(f"{array.path}: {state.active} of {wanted} members are active")
        whole[array.name] = {"active": state.active, "sync": state.sync}
    return whole


def all_equal(listings: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Return the files of ESPs that are all equal; raise naming the first file that is not."""
    first, *others = listings
    for number, other in enumerate(others, start=2):
        for path in sorted(first.keys() | other.keys()):
            if first.get(path) != other.get(path):
                where = "missing" if path not in first or path not in other else "different"
                raise StepError(f"{path}: is {where} on the ESP of disk {number}")
    return first


def summary(files: Mapping[str, str]) -> str:
    """Return one digest of all names and digests, to compare reports of two machines by."""
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
