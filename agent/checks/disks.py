"""Can the chosen disks be erased, and will their new names clash with what the others carry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import Problem, StepError
from agent.inventory.identity import differences
from agent.inventory.model import Disk
from agent.layout.model import Layout
from agent.machine import Machine


@dataclass(frozen=True)
class ErasableDisks:
    """Each disk is still the one that was chosen, takes writes, and nobody uses it."""

    disks: tuple[Disk, ...]

    def describe(self) -> str:
        return f"{', '.join(disk.path for disk in self.disks)} can be erased"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        for disk in self.disks:
            yield from _changed(disk, machine)
            if disk.read_only:
                yield Problem(disk.path, "is read-only, look at the drive's write protection")
            for use in disk.in_use:
                yield Problem(disk.path, f"is in use: {use}")


@dataclass(frozen=True)
class UniqueNames:
    """No other disk has a volume group, an array or a UUID that the layout will use.

    The installed system would find both and take whichever it sees first. UUIDs follow from the
    plan, so a disk that an earlier installation by this plan was on carries the same.
    """

    layout: Layout
    others: tuple[Disk, ...]
    """The disks of the machine that stay as they are."""

    def describe(self) -> str:
        names = [group.name for group in self.layout.every_group]
        names += [array.name for array in self.layout.every_array]
        return f"no other disk has anything named {', '.join(names)}"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        groups = {group.name for group in self.layout.every_group}
        yield from self._hidden()
        for disk in self.others:
            for name in sorted(groups & {*disk.volume_groups}):
                yield Problem(
                    "storage.volume_group",
                    f"{disk} has a volume group {name} too; choose another name",
                )
            for found in disk.content:
                if found.uuid in _uuids(self.layout):
                    yield Problem(
                        found.device,
                        f"carries {found.kind} {found.uuid}, as the new installation will: an "
                        "earlier one by this plan; erase or remove that disk",
                    )
            for name in sorted({array.name for array in self.layout.every_array} & _arrays(disk)):
                yield Problem(
                    disk.path,
                    f"belongs to an md array named {name}, as one of the new arrays will be; "
                    "erase or remove that disk",
                )

    def _hidden(self) -> Iterator[Problem]:
        """Yield the volumes that device-mapper would call as it calls an encrypted one."""
        mappings = {luks.path for luks in self.layout.every_luks}
        for group in self.layout.every_group:
            for volume in group.volumes:
                if volume.filesystem.device in mappings:
                    yield Problem(
                        "storage.volume_group",
                        f"{group.name} makes {volume.name} appear as {volume.filesystem.device}, "
                        "which is the encrypted volume; choose another name",
                    )


def _changed(disk: Disk, machine: Machine) -> Iterator[Problem]:
    try:
        found = machine.storage.identify(Path(disk.path))
    except StepError as error:
        yield Problem(disk.path, f"cannot be looked at any more: {error}")
        return
    for difference in differences(disk, found):
        yield Problem(disk.path, f"is not the disk that was chosen: {difference}")


def _uuids(layout: Layout) -> set[str]:
    chosen = {filesystem.uuid for filesystem in layout.formatted}
    chosen |= {str(array.uuid) for array in layout.every_array}
    return chosen | {str(luks.uuid) for luks in layout.every_luks}


def _arrays(disk: Disk) -> set[str]:
    """Return the names of the arrays a disk belongs to: blkid's label is `host:name`."""
    members = (found for found in disk.content if found.kind == "linux_raid_member")
    return {found.label.rpartition(":")[2] for found in members if found.label}
