"""The resolved layout: every extent, size, name and UUID that apply() will create.

Nothing here is discovered later: PARTUUIDs, array, LUKS and file-system UUIDs are chosen by
`place`, so a step can address `/dev/disk/by-partuuid/…` before the partition exists.
Sizes and offsets are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from agent.inventory.model import Disk
from agent.plan.size import Percent


class Role(StrEnum):
    """What a partition is for; also its GPT name after `bedplate-`."""

    ESP = "esp"
    BOOT = "boot"
    ROOT = "root"
    DATA = "data"
    """All of a disk of data, which has no other partition."""
    IMAGE = "bedplate-image"
    """No partition, but an array over whole disks: `agent.payload.stamp.NAME`."""


# GPT partition type GUIDs (UEFI 2.10 table 5.7; systemd's Discoverable Partitions Specification).
TYPE_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
TYPE_RAID = UUID("a19d880f-05fc-4d3b-a006-743f0f84911e")
TYPE_LUKS = UUID("ca7d7ccb-63ed-4c53-861c-1742536059cc")
TYPE_LVM = UUID("e6d6d379-f507-44c2-a23c-238f2a3df928")
TYPE_LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


@dataclass(frozen=True)
class Partition:
    """One GPT partition: `start` and `size` in bytes, both multiples of 1 MiB."""

    role: Role
    number: int
    start: int
    size: int
    partuuid: UUID
    type_guid: UUID

    @property
    def name(self) -> str:
        return f"bedplate-{self.role.value}"

    @property
    def path(self) -> Path:
        return Path("/dev/disk/by-partuuid") / str(self.partuuid)

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.start + self.size


@dataclass(frozen=True)
class DiskLayout:
    """One disk and its partitions in order of number (1 = ESP, 2 = boot, 3 = root)."""

    disk: Disk
    guid: UUID
    partitions: tuple[Partition, ...]

    def partition(self, role: Role) -> Partition:
        return next(p for p in self.partitions if p.role is role)


@dataclass(frozen=True)
class FileSystem:
    """A file system and how the installed system mounts it.

    `device` is the path while installing; `source` is the first field of its fstab line
    (`UUID=…` or `/dev/mapper/…`: what an auditor's scanner understands).
    """

    device: Path
    source: str
    mount: str
    kind: str
    """`vfat`, `ext4`, `xfs`, `btrfs`; `swap` has `none` for a mount point."""
    uuid: str
    """As the file system shows it: `AAAA-BBBB` for vfat."""
    label: str
    options: tuple[str, ...]
    passno: int = 0


@dataclass(frozen=True)
class Array:
    """One md array; `metadata` is "1.0" (superblock at the end: boot) or "1.2" (all others)."""

    role: Role
    uuid: UUID
    metadata: str
    bitmap: bool
    members: tuple[Path, ...]
    size: int
    level: str = "raid1"
    """`raid1`, or `raid10`: near, every block on two of the members (md(4))."""
    data: str = ""
    """What an array of data is called."""

    @property
    def name(self) -> str:
        return self.data or self.role.value

    @property
    def component(self) -> int:
        """The bytes that the array takes of each member."""
        return self.size if self.level == "raid1" else self.size * 2 // len(self.members)

    @property
    def path(self) -> Path:
        return Path("/dev/md") / self.name

    @property
    def mdadm_uuid(self) -> str:
        """The UUID as mdadm writes it: four groups of eight digits (mdadm.conf(5))."""
        digits = self.uuid.hex
        return ":".join(digits[i : i + 8] for i in range(0, 32, 8))


@dataclass(frozen=True)
class Luks:
    """A LUKS2 volume; `device` is what is encrypted, `mapping` the name when open."""

    device: Path
    uuid: UUID
    mapping: str
    label: str
    cipher: str = "aes-xts-plain64"
    key_size: int = 512
    """Bits; XTS halves it, so 512 is AES-256."""
    iterations: int = 1000
    """PBKDF2 iterations: random 256-bit keys need no slow KDF."""

    @property
    def path(self) -> Path:
        return Path("/dev/mapper") / self.mapping


@dataclass(frozen=True)
class Volume:
    """One LVM logical volume with its file system; `size` is a multiple of the extent size."""

    name: str
    size: int
    filesystem: FileSystem
    rules: tuple[str, ...] = ()
    """The rule ids this volume and its options answer (STIG, CIS)."""


@dataclass(frozen=True)
class VolumeGroup:
    name: str
    physical: Path
    """The device under LVM: the open LUKS mapping, or the array or partition without one."""
    size: int
    volumes: tuple[Volume, ...]
    extent: int = 4 * 1024 * 1024

    @property
    def free(self) -> int:
        return self.size - sum(volume.size for volume in self.volumes)


@dataclass(frozen=True)
class DataLayout:
    """An array of further disks, and what lies on it; a single disk has no array."""

    name: str
    level: str
    disks: tuple[DiskLayout, ...]
    array: Array | None
    luks: Luks | None
    group: VolumeGroup


@dataclass(frozen=True)
class Layout:
    """Everything that will be on the disks.

    `disks`, `arrays`, `luks` and `group` are the system's; those with `every_` in their name, and
    the file systems, are all there are.
    """

    disks: tuple[DiskLayout, ...]
    arrays: tuple[Array, ...]
    """Empty on a single disk; else boot and root."""
    luks: Luks | None
    group: VolumeGroup
    boot: FileSystem
    esps: tuple[FileSystem, ...]
    """One per disk; the first is mounted at /boot/efi, the second at /boot/efi2."""
    memory: tuple[FileSystem, ...] = field(default=())
    """tmpfs lines that an auditor wants in fstab, /dev/shm first."""
    deviations: tuple[str, ...] = ()
    zram: int | Percent | None = None
    """Swap in compressed memory: bytes, or a share of the memory."""
    data: tuple[DataLayout, ...] = ()

    @property
    def every_disk(self) -> tuple[DiskLayout, ...]:
        return (*self.disks, *(laid for one in self.data for laid in one.disks))

    @property
    def every_array(self) -> tuple[Array, ...]:
        return (*self.arrays, *(one.array for one in self.data if one.array is not None))

    @property
    def every_luks(self) -> tuple[Luks, ...]:
        mine = () if self.luks is None else (self.luks,)
        return (*mine, *(one.luks for one in self.data if one.luks is not None))

    @property
    def every_group(self) -> tuple[VolumeGroup, ...]:
        return (self.group, *(one.group for one in self.data))

    @property
    def on_data(self) -> tuple[FileSystem, ...]:
        """The file systems that the machine starts without."""
        return tuple(v.filesystem for one in self.data for v in one.group.volumes)

    @property
    def mirrored(self) -> bool:
        return bool(self.arrays)

    @property
    def filesystems(self) -> tuple[FileSystem, ...]:
        """Every disk file system in mount order: / first, parents before children."""
        volumes = (volume.filesystem for volume in self.group.volumes)
        mounted = (filesystem for filesystem in volumes if filesystem.kind != "swap")
        everything = (*mounted, self.boot, *self.esps, *self.on_data)
        return tuple(sorted(everything, key=lambda fs: (fs.mount.rstrip("/").count("/"), fs.mount)))

    @property
    def swaps(self) -> tuple[FileSystem, ...]:
        """Volumes of swap: made and named in fstab like file systems, but never mounted."""
        return tuple(v.filesystem for v in self.group.volumes if v.filesystem.kind == "swap")

    @property
    def formatted(self) -> tuple[FileSystem, ...]:
        """Everything that mkfs or mkswap makes."""
        return (*self.filesystems, *self.swaps)

    @property
    def root(self) -> FileSystem:
        return next(v.filesystem for v in self.group.volumes if v.filesystem.mount == "/")

    def array(self, role: Role) -> Array:
        return next(a for a in self.arrays if a.role is role)
