"""What lies on the disks: the preset and what the plan changes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictStr

from agent.plan.part import NOT_YET, Fault, Kind, Part, one_of, shown
from agent.plan.size import MiB, Percent, Size, render

PresetName = Literal["plain", "stig-rhel9"]
PRESETS: tuple[PresetName, ...] = ("plain", "stig-rhel9")
LATER_PRESETS = (
    "cis-l1-server",
    "cis-l2-server",
    "stig-rhel8",
    "stig-rhel10",
    "anssi-high",
    "cis-l2+stig-rhel9",
)
FileSystem = Literal["xfs", "ext4"]
_FILE_SYSTEM = one_of(("xfs", "ext4"), later=("btrfs",))

# What mkfs accepts: mkfs.xfs(8) refuses less than 300 MiB, ext4 needs room for its journal.
SMALLEST = {"xfs": 300 * MiB, "ext4": 64 * MiB}

_MOUNT = re.compile(r"/|(?:/[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,63}){1,8}")
_OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=/+@%-]{0,127}")
_VOLUME_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]{0,63}")
# Mount points that are not the plan's to give: partitions, what the boot itself needs on the root
# volume, and what the kernel provides.
PARTITIONS = ("/boot", "/boot/efi", "/efi")
ON_ROOT = ("/bin", "/etc", "/lib", "/lib64", "/sbin", "/usr")
VIRTUAL = ("/dev", "/proc", "/run", "/sys")


def parse_mount(text: str) -> str:
    """Return a mount point; only characters that fstab and LVM take without escapes."""
    if not _MOUNT.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a mount point such as /var/log")
    return text


def parse_option(text: str) -> str:
    """Return one mount option; raise ValueError where it is none."""
    if not _OPTION.fullmatch(text):
        hint = ": give each option by itself in the list" if "," in text else ""
        raise ValueError(f"{shown(text)} is not a mount option{hint}")
    return text


def parse_volume_group(text: str) -> str:
    """Return a name that lvm(8) takes for a volume group."""
    if not _VOLUME_GROUP.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a volume group name: letters, digits and _+.-")
    return text


MountPoint = Annotated[StrictStr, Kind("mount point"), AfterValidator(parse_mount)]
Option = Annotated[StrictStr, Kind("mount option"), AfterValidator(parse_option)]


class Volume(Part):
    """A volume that is added to the preset's, or what is changed of one that it has.

    Of a volume that the preset has, only what is given changes. A volume that it does not have
    needs `size` or `grow`; its options are those that the preset has for other volumes.
    """

    later: ClassVar[frozenset[str]] = frozenset({"max", "min", "weight"})
    example: ClassVar[str] = """\
mount: /var/lib/pgsql
size: 40%
filesystem: xfs
options: [nodev, nosuid]
"""

    mount: MountPoint = Field(description="where it is mounted")
    size: Size | None = Field(
        None, description="bytes, or a share of the space that all volumes have together"
    )
    grow: Annotated[StrictBool, one_of((True, False), later=(1, 2, 3, 4, 5))] = Field(
        False,
        description="takes what the others leave. One volume of a plan may; the one that grows in "
        "the preset then keeps its size",
    )
    filesystem: Annotated[FileSystem, _FILE_SYSTEM] | None = Field(
        None, description="instead of the file system that `storage` names"
    )
    options: tuple[Option, ...] | None = Field(
        None,
        description="mount options, instead of all that the preset gives it. A rule of the preset "
        "that is broken by this is named in preview and report",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._place(), self._one_size(), self._options_agree()

    def _place(self) -> Iterator[Fault]:
        if self.mount in PARTITIONS:
            yield Fault(("mount",), f"{self.mount} is a partition: changing it {NOT_YET}")
        if self.mount in ON_ROOT:
            yield Fault(("mount",), f"{self.mount} belongs on /, which boots with it")
        top = "/" + self.mount.split("/")[1]
        if top in VIRTUAL:
            yield Fault(("mount",), f"{self.mount} lies on {top}, which the kernel provides")

    def _one_size(self) -> Iterator[Fault]:
        if self.size is not None and self.grow:
            yield Fault(("grow",), "the volume has a size too: give one of the two")

    def _options_agree(self) -> Iterator[Fault]:
        seen: set[str] = set()
        for number, option in enumerate(self.options or ()):
            opposite = option[2:] if option.startswith("no") else f"no{option}"
            if option in seen:
                yield Fault(("options", number), f"{option} is there twice")
            if opposite in seen:
                yield Fault(("options", number), f"{option} contradicts {opposite}")
            seen.add(option)


class Storage(Part):
    """What lies on the disks.

    Each disk gets an ESP, a boot partition and the rest; over two disks boot and the rest are
    mirrored, and each ESP stands by itself with equal content. The rest carries the encryption, a
    volume group and one volume per mount point. Space that no volume takes stays in the volume
    group.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"boot", "data", "esp", "extends", "presets", "raid", "swap", "zram"}
    )
    example: ClassVar[str] = """\
preset: stig-rhel9
volumes:
  - {mount: /var/lib/pgsql, grow: true, options: [nodev, nosuid]}
  - {mount: /home, size: 5 GiB}
"""

    preset: Annotated[PresetName, one_of(PRESETS, later=LATER_PRESETS)] = Field(
        "plain", description="the set of volumes and mount options to start from, see Presets"
    )
    volumes: tuple[Volume, ...] = Field((), description="what is changed of the preset or added")
    filesystem: Annotated[FileSystem, _FILE_SYSTEM] = Field(
        "xfs", description="file system of the volumes that name none"
    )
    volume_group: Annotated[StrictStr, Kind("name"), AfterValidator(parse_volume_group)] = Field(
        "vg0", description="name of the LVM volume group"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._mounts_differ(), self._one_grows(), self._shares(), self._large_enough()

    def _mounts_differ(self) -> Iterator[Fault]:
        mounts = [volume.mount for volume in self.volumes]
        for number, mount in enumerate(mounts):
            if mount in mounts[:number]:
                yield Fault(("volumes", number, "mount"), f"{mount} is there twice")

    def _one_grows(self) -> Iterator[Fault]:
        growing = [number for number, volume in enumerate(self.volumes) if volume.grow]
        for number in growing[1:]:
            message = f"{self.volumes[growing[0]].mount} grows already, and one volume may"
            yield Fault(("volumes", number, "grow"), message)

    def _shares(self) -> Iterator[Fault]:
        sizes = [volume.size for volume in self.volumes]
        total = sum(size.points for size in sizes if isinstance(size, Percent))
        if total > 100:
            yield Fault(("volumes",), f"the shares add up to {total}%, there are 100%")

    def _large_enough(self) -> Iterator[Fault]:
        for number, volume in enumerate(self.volumes):
            filesystem = volume.filesystem or self.filesystem
            smallest = SMALLEST[filesystem]
            if isinstance(volume.size, int) and volume.size < smallest:
                message = f"{render(volume.size)} is too small: {filesystem} needs "
                yield Fault(("volumes", number, "size"), message + render(smallest))
