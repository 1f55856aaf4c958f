"""Fakes of the ports that the steps of the target ask: they keep state on a temporary directory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agent.errors import CommandError, StepError
from agent.layout.model import FileSystem, Layout
from agent.machine import BootEntry, Machine, MirrorState


@dataclass
class FakeMounts:
    """Each file system is a directory in `store`; while mounted, a link leads to it.

    What the tree itself has at the mount point cannot be seen meanwhile.
    """

    store: Path
    mounted_now: list[str] = field(default_factory=list)
    fstab_verdict: str = "Success, no errors or warnings detected"

    def of(self, filesystem: FileSystem) -> Path:
        """Return the directory that holds the content of a file system."""
        place = self.store / filesystem.uuid
        place.mkdir(parents=True, exist_ok=True)
        return place

    @contextlib.contextmanager
    def mounted(self, filesystem: FileSystem, at: Path) -> Iterator[Path]:
        at.parent.mkdir(parents=True, exist_ok=True)
        content = self.of(filesystem)
        hidden = at.rename(self.store / f"below-{at.name}") if at.is_dir() else None
        at.symlink_to(content)
        self.mounted_now.append(filesystem.mount)
        try:
            yield at
        finally:
            at.unlink()
            if hidden is not None:
                hidden.rename(at)
            self.mounted_now.remove(filesystem.mount)

    def attach(self, filesystems: Sequence[FileSystem], root: Path) -> None:
        raise AssertionError("these steps mount only ESPs")

    def detach(self, root: Path) -> None:
        raise AssertionError("these steps unmount only ESPs")

    def freeze(self, root: Path) -> None:
        raise AssertionError("not theirs to do")

    def verify_fstab(self, root: Path) -> str:
        if "error" in self.fstab_verdict.split(",")[0]:
            raise CommandError(("findmnt", "--verify"), "exited with status 1", self.fstab_verdict)
        return self.fstab_verdict


@dataclass
class FakeTarget:
    """Programs in the tree: a name -> what it does to the tree; others fail as if not installed."""

    programs: dict[str, Callable[[Path, tuple[str, ...]], None]] = field(default_factory=dict)
    ran: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, root: Path, *argv: str, timeout: float = 600) -> str:
        self.ran.append(argv)
        if argv[0] not in self.programs:
            raise CommandError(argv, "is not installed")
        self.programs[argv[0]](root, argv)
        return ""


@dataclass
class FakeFirmware:
    """Entries in BootOrder, first to boot first."""

    order: list[BootEntry] = field(default_factory=list)
    created: list[tuple[str, Path, int, str]] = field(default_factory=list)
    full: bool = False
    next: str | None = None
    """Number of the entry in BootNext."""

    def entries(self) -> tuple[BootEntry, ...]:
        return tuple(self.order)

    def create(self, label: str, *, disk: Path, partition: int, loader: str) -> None:
        if self.full:
            raise CommandError(("efibootmgr",), "exited with status 5", "No space left on device")
        taken = {entry.number for entry in self.order}
        number = next(f"{n:04X}" for n in range(0xFFFF) if f"{n:04X}" not in taken)
        self.order.insert(0, BootEntry(number, label, None))
        self.created.append((label, disk, partition, loader))

    def delete(self, number: str) -> None:
        before = len(self.order)
        self.order = [entry for entry in self.order if entry.number != number]
        if len(self.order) == before:
            raise StepError(f"Boot{number}: is not there")

    def boot_next(self, number: str) -> None:
        if number not in {entry.number for entry in self.order}:
            raise CommandError(("efibootmgr", "--bootnext", number), "exited with status 2")
        self.next = number


@dataclass
class FakeKernel:
    states: tuple[MirrorState, ...] = ()

    def mirrors(self) -> tuple[MirrorState, ...]:
        return self.states


def whole_mirrors(layout: Layout) -> tuple[MirrorState, ...]:
    return tuple(MirrorState(array.name, 2, 2, "frozen") for array in layout.arrays)


@dataclass
class Bench:
    """A machine of fakes, and the fakes by themselves."""

    mounts: FakeMounts
    target: FakeTarget = field(default_factory=FakeTarget)
    firmware: FakeFirmware = field(default_factory=FakeFirmware)
    kernel: FakeKernel = field(default_factory=FakeKernel)
    progress: list[tuple[int, int]] = field(default_factory=list)

    @property
    def machine(self) -> Machine:
        """Return the ports; those that no step of the target may touch are not there at all."""
        return cast(Machine, _Ports(self))

    def report(self, done: int, total: int) -> None:
        self.progress.append((done, total))


@dataclass
class _Ports:
    bench: Bench

    def __getattr__(self, name: str) -> Any:
        if name in ("mounts", "target", "firmware", "kernel"):
            return getattr(self.bench, name)
        raise AssertionError(f"the port {name} is not for these steps")
