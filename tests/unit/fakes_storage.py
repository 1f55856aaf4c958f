"""Fakes of the storage, kernel and mounts ports that keep state and refuse what a machine would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agent.errors import StepError
from agent.inventory.erasure import Way
from agent.inventory.identity import Identity, differences
from agent.inventory.model import Disk
from agent.layout.model import Array, DiskLayout, FileSystem, Luks, VolumeGroup
from agent.machine import Machine, MirrorState, Progress
from agent.secret import Secret


@dataclass
class FakeKernel:
    """Arrays by name with their sync action; `FakeStorage` puts them there."""

    arrays: dict[str, MirrorState] = field(default_factory=dict)

    def mirrors(self) -> tuple[MirrorState, ...]:
        return tuple(self.arrays.values())

    def hold_resync(self) -> None:
        self._all("frozen")

    def resume_resync(self) -> None:
        self._all("idle")

    def _all(self, sync: str) -> None:
        for name, state in self.arrays.items():
            self.arrays[name] = MirrorState(name, state.members, state.active, sync)


@dataclass
class FakeStorage:
    """Disks by path. `content` is what lies on them; `zeroing` are the disks that read zeros."""

    disks: dict[Path, Identity]
    kernel: FakeKernel = field(default_factory=FakeKernel)
    zeroing: frozenset[Path] = frozenset()
    content: dict[Path, str] = field(default_factory=dict)
    devices: dict[Path, int] = field(default_factory=dict)
    """Everything that exists beyond the disks, with its size in bytes."""
    formats: dict[Path, tuple[str, str]] = field(default_factory=dict)
    """Device -> (kind, UUID)."""
    keys: dict[Path, Secret] = field(default_factory=dict)
    tables: dict[Path, DiskLayout] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    ways: dict[str, tuple[Way, ...]] = field(default_factory=dict)
    """How each disk, by path, can erase itself."""
    awaited: tuple[Path, ...] = ()
    """The links that the last `reread` was to wait for."""
    _zeros: set[Path] = field(default_factory=set)
    _under: dict[Path, Path] = field(default_factory=dict)

    def identify(self, disk: Path) -> Identity:
        if disk not in self.disks:
            raise StepError(f"{disk}: is gone")
        return self.disks[disk]

    def ways_to_erase(self, disk: Disk) -> tuple[Way, ...]:
        return self.ways.get(disk.path, ())

    def secure_erase(self, disk: Disk, way: Way) -> None:
        self._verify([disk])
        self.calls.append(f"secure_erase {way.method}")
        self.content.pop(Path(disk.path), None)

    def _verify(self, disks: Sequence[Disk]) -> None:
        for disk in disks:
            if changed := "; ".join(differences(disk, self.identify(Path(disk.path)))):
                raise StepError(f"{disk.path}: is not the disk that was chosen: {changed}")

    def clear(self, disks: Sequence[Disk]) -> tuple[str, ...]:
        self._verify(disks)
        self.calls.append("clear")
        paths = [Path(disk.path) for disk in disks]
        self._zeros = {path for path in paths if path in self.zeroing}
        return tuple(self.content.pop(path) for path in paths if path in self.content)

    def partition(self, disks: Sequence[DiskLayout]) -> None:
        self.calls.append("partition")
        for layout in disks:
            disk = Path(layout.disk.path)
            if disk in self.content:
                raise StepError(f"{disk}: still carries {self.content[disk]}")
            self.tables[disk] = layout
            for part in layout.partitions:
                self.devices[part.path] = part.size
                self._under[part.path] = disk

    def mirror(self, arrays: Sequence[Array]) -> tuple[str, ...]:
        self.calls.append("mirror")
        syncing = []
        for array in arrays:
            for member in array.members:
                self.size_of(member)
            self.devices[array.path] = array.size
            clean = all(self._under.get(member, member) in self._zeros for member in array.members)
            syncing += [] if clean else [array.name]
            count = len(array.members)
            sync = "idle" if clean else "resync"
            self.kernel.arrays[array.name] = MirrorState(array.name, count, count, sync)
        return tuple(syncing)

    def encrypt(self, luks: Luks, key: Secret) -> None:
        self.calls.append("encrypt")
        self._need(luks.device)
        self.formats[luks.device] = ("crypto_LUKS", str(luks.uuid))
        self.keys[luks.device] = key
        self.devices[luks.path] = self.devices[luks.device] - 16 * 1024 * 1024

    def make_volumes(self, group: VolumeGroup) -> None:
        self.calls.append("make_volumes")
        self._need(group.physical)
        if sum(volume.size for volume in group.volumes) > self.devices[group.physical]:
            raise StepError(f"{group.name}: is too small for its volumes")
        for volume in group.volumes:
            self.devices[volume.filesystem.device] = volume.size

    def make_filesystems(self, filesystems: Sequence[FileSystem], progress: Progress) -> None:
        self.calls.append("make_filesystems")
        for number, filesystem in enumerate(filesystems, start=1):
            self._need(filesystem.device)
            self.formats[filesystem.device] = (filesystem.kind, filesystem.uuid)
            progress(number, len(filesystems))

    def reread(self, device: Path, links: Sequence[Path]) -> None:
        self.calls.append("reread")
        self.size_of(device)
        self.awaited = tuple(links)

    def release(self) -> None:
        self.calls.append("release")
        self.kernel.arrays.clear()
        self.devices = {path: s for path, s in self.devices.items() if path in self._under}

    def size_of(self, device: Path) -> int:
        """Return the bytes of a disk, or of what stands on one."""
        if device in self.disks:
            return self.disks[device][2]
        self._need(device)
        return self.devices[device]

    def _need(self, device: Path) -> None:
        if device not in self.devices:
            raise StepError(f"{device}: does not exist")


@dataclass
class FakeMounts:
    """What is mounted where, in order; only what was formatted can be mounted."""

    storage: FakeStorage
    mounted_at: dict[Path, FileSystem] = field(default_factory=dict)

    def attach(self, filesystems: Sequence[FileSystem], root: Path) -> None:
        for filesystem in filesystems:
            place = root / filesystem.mount.lstrip("/")
            if self.storage.formats.get(filesystem.device, ("", ""))[0] != filesystem.kind:
                raise StepError(f"{filesystem.device}: is not {filesystem.kind}")
            if any(above.is_relative_to(place) for above in self.mounted_at):
                raise StepError(f"{place}: would hide what is mounted below it")
            self.mounted_at[place] = filesystem

    def detach(self, root: Path) -> None:
        for place in reversed(list(self.mounted_at)):
            if place.is_relative_to(root):
                del self.mounted_at[place]

    @contextmanager
    def mounted(self, filesystem: FileSystem, at: Path) -> Iterator[Path]:
        self.mounted_at[at] = filesystem
        try:
            yield at
        finally:
            del self.mounted_at[at]

    def verify_fstab(self, root: Path) -> str:
        if root not in self.mounted_at:
            raise StepError(f"{root}: is not mounted")
        return "Success, no errors or warnings detected"

    def freeze(self, root: Path) -> None:
        if root not in self.mounted_at:
            raise StepError(f"{root}: is not mounted")


class NotThere:
    """A port that must not be used; using it fails the test with its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise AssertionError(f"{self._name}.{attribute} was used")


def storage_machine(storage: FakeStorage, mounts: FakeMounts | None = None) -> Machine:
    """Return a machine that has disks and nothing else."""
    rest = {
        name: cast("Any", NotThere(name))
        for name in Machine.__dataclass_fields__
        if name not in ("storage", "kernel", "mounts")
    }
    return Machine(
        storage=storage,
        kernel=storage.kernel,
        mounts=mounts or FakeMounts(storage),
        **rest,
    )
