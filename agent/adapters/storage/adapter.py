"""`BlivetStorage`: the storage port. The layout decides every extent, name and UUID; it executes.

One blivet object serves one run: it is made when the tables are written, so that what it knows is
what the layout put there, and it never looks at other disks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blivet
from blivet import blockdev, udev
from blivet.devices import LUKSDevice, PartitionDevice
from blivet.errors import StorageError
from blivet.formats import get_format
from blivet.size import Size

from agent.adapters import command
from agent.adapters.disks import identity
from agent.adapters.storage import erase, plain, table
from agent.adapters.storage.devices import (
    ChosenArray,
    ChosenLuks,
    ChosenVolume,
    array_member,
    new_filesystem,
)
from agent.adapters.storage.dismantle import Dismantler
from agent.adapters.storage.hold import held
from agent.adapters.storage.secure import SecureEraser
from agent.adapters.storage.stack import Kernel, kernel_name, node
from agent.errors import StepError
from agent.inventory.erasure import Way
from agent.inventory.model import Disk
from agent.layout.model import Array, DiskLayout, FileSystem, Luks, VolumeGroup
from agent.machine import Progress
from agent.secret import Secret

log = logging.getLogger(__name__)
# blivet's record of everything it read from sysfs, for its own tests.
logging.getLogger("testdata").setLevel(logging.WARNING)

LINK_TIMEOUT = 60
"""Seconds for udev to show a link; under emulation a probe of one device can take several."""


class BlivetStorage:
    """Clears, partitions, mirrors, encrypts and formats the disks of one run."""

    def __init__(self) -> None:
        self._kernel = Kernel()
        self._dismantler = Dismantler(command.attempt, self._kernel)
        self._disks: list[str] = []
        self._zeros: set[str] = set()
        self._blivet: Any = None

    def identify(self, disk: Path) -> tuple[str | None, str | None, int]:
        """Return (serial, WWN, size in bytes) of the device behind the path, read now."""
        if not disk.exists():
            raise StepError(f"{disk}: is gone")
        return identity(kernel_name(disk), self._kernel)

    def clear(self, disks: Sequence[Disk]) -> tuple[str, ...]:
        """Take apart and erase whatever lies on the disks; return what was closed and removed.

        Raises before anything is changed where one of them is not the disk that was chosen.
        """
        with held(disks, self._kernel):
            self._disks = [kernel_name(Path(disk.path)) for disk in disks]
            self._zeros, self._blivet = set(), None
            found = [line for disk in self._disks for line in self._list(disk)]
            closed = self._dismantler.take_apart(self._disks)
            for disk in self._disks:
                self._erase(disk)
        _settle()
        return (*dict.fromkeys(found), *closed)

    def ways_to_erase(self, disk: Disk) -> tuple[Way, ...]:
        """Return how this disk can erase itself, and why not otherwise; reads only."""
        return SecureEraser(kernel=self._kernel).ways(kernel_name(Path(disk.path)))

    def secure_erase(self, disk: Disk, way: Way) -> None:
        """Take apart what stands on the disk and have it erase all of itself."""
        with held([disk], self._kernel):
            name = kernel_name(Path(disk.path))
            self._dismantler.take_apart([name])
            SecureEraser(kernel=self._kernel).erase(name, way)
            self._forget_partitions(name)
        _settle()

    def _list(self, disk: str) -> Iterator[str]:
        for name in (*self._kernel.above(disk), disk):
            for found in erase.distinct(erase.signatures(command.run, node(name))):
                yield f"{found.kind} on {self._shown(name)}"

    def _shown(self, name: str) -> str:
        mapping = self._kernel.attribute(name, "dm/name")
        return f"/dev/mapper/{mapping}" if mapping else str(node(name))

    def _erase(self, disk: str) -> None:
        for part in self._kernel.partitions(disk):
            erase.blank_ends(command.run, node(part))
        erase.blank_ends(command.run, node(disk))
        self._forget_partitions(disk)
        if erase.reads_zeros(command.run, command.attempt, node(disk)):
            self._zeros.add(disk)

    def _forget_partitions(self, disk: str) -> None:
        # Locked, or udev's own look at the old partitions makes the kernel refuse (EBUSY).
        command.run("udevadm", "lock", "--device", node(disk), "blockdev", "--rereadpt", node(disk))

    def partition(self, disks: Sequence[DiskLayout]) -> None:
        """Write the tables, wait for every partition by its PARTUUID, and blank its ends."""
        for layout in disks:
            with command.feeding("sfdisk", "--lock", "--wipe", "always", layout.disk.path) as stdin:
                stdin.write(table.script(layout).encode())
        _wait(part.path for layout in disks for part in layout.partitions)
        self._disks = [kernel_name(Path(layout.disk.path)) for layout in disks]
        for disk, layout in zip(self._disks, disks, strict=True):
            for part in layout.partitions:
                if self._disk_of(part.path) != disk:
                    raise StepError(f"{part.path}: is on another disk than {layout.disk.path}")
                if disk not in self._zeros:
                    erase.blank_ends(command.run, part.path)
        self._blivet = self._scanned()

    def _scanned(self) -> Any:
        """Return a blivet that knows these disks and their partitions, and nothing else.

        Its reset() would look at every disk of the machine, and stumble over what it finds there.
        """
        with _failing("reading the new partition tables"):
            found = blivet.Blivet()
            for disk in self._disks:
                for name in (disk, *self._kernel.partitions(disk)):
                    place = self._kernel.block(name).resolve()
                    found.devicetree.handle_device(udev.get_device(str(place)))
        for device in found.devices:
            if isinstance(device, PartitionDevice):
                # The table is complete: formatting a partition must not make blivet write it again.
                device.disklabel_supported = False
        return found

    def mirror(self, arrays: Sequence[Array]) -> tuple[str, ...]:
        """Create the arrays; return the names of those that must resynchronise."""
        if self._blivet is None:  # over whole disks, where no table was written
            self._blivet = self._scanned()
        syncing = []
        for array in arrays:
            members = [self._device(path) for path in array.members]
            clean = all(self._disk_of(path) in self._zeros for path in array.members)
            with _failing(f"creating the array {array.name}"):
                for member in members:
                    member.format = array_member(member.path)
                self._blivet.create_device(ChosenArray(array, members, clean=clean))
                self._blivet.do_it()
            _wait([array.path])
            if not clean:
                syncing.append(array.name)
                erase.blank_ends(command.run, array.path)
        return tuple(syncing)

    def _disk_of(self, device: Path) -> str:
        name = kernel_name(device)
        return name if name in self._disks else self._kernel.block(name).resolve().parent.name

    def encrypt(self, luks: Luks, key: Secret) -> None:
        """Format as LUKS2 with `key` in keyslot 0, and open it."""
        with _failing(f"encrypting {luks.device}"):
            below = self._device(luks.device)
            self._blivet.format_device(below, ChosenLuks(luks, key, command.run))
            self._blivet.create_device(LUKSDevice(luks.mapping, parents=[below]))
            self._blivet.do_it()
        _wait([luks.path, Path("/dev/disk/by-uuid") / str(luks.uuid)])

    def make_volumes(self, group: VolumeGroup) -> None:
        """Make the physical volume and the group, then each volume with exactly its size."""
        with _failing(f"creating the volume group {group.name}"):
            below = self._device(group.physical)
            self._blivet.format_device(below, get_format("lvmpv"))
            vg = self._blivet.new_vg(name=group.name, parents=[below], pe_size=Size(group.extent))
            self._blivet.create_device(vg)
            self._blivet.do_it()
        with _failing(f"creating the volumes of {group.name}"):
            for volume in group.volumes:
                lv = ChosenVolume(volume.name, parents=[vg], size=Size(volume.size))
                self._blivet.create_device(lv)
            self._blivet.do_it()
        for volume in group.volumes:
            size = self._kernel.size(kernel_name(volume.filesystem.device))
            if size != volume.size:
                raise StepError(f"{volume.name}: is {size} bytes, should be {volume.size}")

    def make_filesystems(self, filesystems: Sequence[FileSystem], progress: Progress) -> None:
        """Make each file system and read back that it carries the chosen UUID."""
        for number, filesystem in enumerate(filesystems, start=1):
            with _failing(f"creating {filesystem.kind} on {filesystem.device}"):
                if plain.makes(filesystem):
                    plain.make(command.run, filesystem)
                else:
                    self._blivet.format_device(
                        self._device(filesystem.device), new_filesystem(filesystem)
                    )
                    self._blivet.do_it()
            self._prove(filesystem)
            progress(number, len(filesystems))

    def _prove(self, filesystem: FileSystem) -> None:
        found = erase.signatures(command.run, filesystem.device)
        uuids = [signature.uuid for signature in found if signature.kind == filesystem.kind]
        if filesystem.uuid not in uuids:
            raise StepError(
                f"{filesystem.device}: should be {filesystem.kind} {filesystem.uuid}, "
                f"carries {uuids or 'none'}"
            )

    def reread(self, device: Path, links: Sequence[Path]) -> None:
        """Have the kernel read the device's table, and wait until udev shows `links`."""
        real = device.resolve()
        command.run("udevadm", "lock", "--device", real, "blockdev", "--rereadpt", real)
        _wait(links)

    def release(self) -> None:
        """Unmount, close and stop everything on the disks of this run.

        An array over whole disks had the kernel forget their partitions. They are shown again:
        where no disk has its ESP, a boot entry is taken for one of a disk that is gone.
        """
        self._blivet = None
        self._dismantler.take_apart(self._disks)
        for disk in self._disks:
            if not self._kernel.partitions(disk):
                device = node(disk)
                argv = ("udevadm", "lock", "--device", device, "blockdev", "--rereadpt", device)
                if (done := command.attempt(*argv)).status:
                    log.warning("%s: partitions not shown again: %s", disk, done.stderr.strip())
        _settle()

    def _device(self, path: Path) -> Any:
        """Return blivet's object for a device node or a link to one."""
        real = path.resolve()
        for device in self._blivet.devices:
            if Path(device.path).resolve() == real:
                return device
        raise StepError(f"{path}: is not among the devices that were made")


def _wait(links: Sequence[Path] | Iterator[Path]) -> None:
    """Wait until udev has probed the devices behind these links."""
    command.run(
        "udevadm", "wait", f"--timeout={LINK_TIMEOUT}", "--settle", *links, timeout=LINK_TIMEOUT + 5
    )


def _settle() -> None:
    command.run("udevadm", "settle", f"--timeout={LINK_TIMEOUT}", timeout=LINK_TIMEOUT + 5)


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turn blivet's and libblockdev's errors into a `StepError` that says what was under way."""
    try:
        yield
    except (StorageError, blockdev.BlockDevError) as error:
        raise StepError(f"{what}: {error}") from error
