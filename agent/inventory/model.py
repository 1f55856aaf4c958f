"""The recorded machine: disks with what lies on them, NICs, DMI, TPM, firmware.

Written as JSON by `bedplate inventory` and read back by `bedplate preview --inventory`, so a plan
can be tried on a laptop against a machine that is far away. Sizes are bytes.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict

Transport = Literal[
    "nvme", "sata", "sas", "scsi", "virtio", "usb", "mmc", "fc", "iscsi", "nvmeof", "unknown"
]


def printable(text: str) -> str:
    """Return a text of which every character can be shown on a console, on one line."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


# Whoever wrote to a disk chose its labels; shown as they are, they could drive a terminal.
Label = Annotated[str, AfterValidator(printable)]


class Fact(BaseModel):
    """Base of every recorded fact: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Content(Fact):
    """Something that was found on a disk or on a part of it, and would be lost.

    `kind` is blkid's word (`gpt`, `ext4`, `linux_raid_member`, `LVM2_member`, `crypto_LUKS`…), or
    `data` for a disk that is not blank but holds nothing blkid knows.
    """

    device: str
    kind: str
    label: Label | None = None
    uuid: str | None = None
    size: int
    partition_name: Label | None = None
    last_used: datetime | None = None
    """When it was last mounted or written, where it says so itself."""


class Marker(Fact):
    """The note of a finished installation: on its ESPs (`EFI/bedplate/installed.json`).

    A whole-disk image has it in a partition of ours behind it; `esp` is the PARTUUID of its own.
    """

    plan: UUID
    hostname: str
    machine: str
    finished: str
    esp: UUID | None = None


IMAGE = "bedplate-image"
"""`agent.payload.stamp.NAME`; as a kind of content, a disk that such an image is missing on."""


def _array(label: str | None) -> str:
    """Return an array's name: blkid's label is `host:name`."""
    return (label or "").rpartition(":")[2]


class Disk(Fact):
    """One whole disk as the kernel shows it."""

    path: str
    """Kernel name, `/dev/vda`: valid only until the next boot."""
    by_id: tuple[str, ...] = ()
    by_path: tuple[str, ...] = ()
    """Links below /dev/disk/by-path: the slot, whichever disk is in it."""
    serial: str | None = None
    wwn: str | None = None
    model: str | None = None
    size: int
    sector_size: int = 512
    physical_sector_size: int = 512
    transport: Transport = "unknown"
    rotational: bool = False
    removable: bool = False
    read_only: bool = False
    boot_medium: bool = False
    """The live system was booted from it (or it is a CD or USB disk that carries the plan)."""
    controller: str | None = None
    """sysfs path of the PCI function the disk hangs on."""
    in_use: tuple[str, ...] = ()
    """Why it cannot be erased now: mount points, swap, active arrays or volume groups."""
    content: tuple[Content, ...] = ()
    partitions: tuple[str, ...] = ()
    """PARTUUIDs of the partitions that it has, in lower case: boot entries point to them."""
    volume_groups: tuple[str, ...] = ()
    """Names of LVM volume groups with a physical volume on this disk (visible without keys)."""
    marker: Marker | None = None
    unknown: tuple[str, ...] = ()
    """Names of the fields above that the record could not tell; they have no meaning then."""

    @property
    def blank(self) -> bool:
        """Whether nothing would be lost."""
        return not self.content

    @property
    def ours(self) -> bool:
        """Whether Bedplate laid it out: every partition carries one of our GPT names.

        Of a whole-disk image one does, or the array that it was on; or it is not complete.
        """
        names = [c.partition_name for c in self.content if c.partition_name is not None]
        parts = [found for found in self.content if found.device != self.path]
        whole = {found.kind for found in self.content if found.device == self.path}
        named = all((part.partition_name or "").startswith("bedplate-") for part in parts)
        if parts and named and whole <= {"gpt", "PMBR"}:
            return True
        return IMAGE in names or any(
            c.kind == IMAGE or (c.kind == "linux_raid_member" and _array(c.label) == IMAGE)
            for c in self.content
        )

    @property
    def stem(self) -> PurePosixPath:
        return PurePosixPath(self.path)

    def __str__(self) -> str:
        words = f"{self.model or 'no model'}, serial {self.serial or 'none'}"
        return f"{self.path} ({printable(words)})"


class Nic(Fact):
    name: str
    mac: str
    driver: str | None = None
    carrier: bool = False
    speed: int | None = None
    """Mbit/s, as the kernel reports it."""
    addresses: tuple[str, ...] = ()
    """With prefix length: `10.0.0.5/24`."""


class Dmi(Fact):
    vendor: str | None = None
    product: str | None = None
    serial: str | None = None
    uuid: UUID | None = None


class Tpm(Fact):
    """A TPM 2.0 as found, before anything was asked of it that changes state."""

    device: str
    vendor: str | None = None
    sha256_bank: bool = True
    in_lockout: bool = False
    lockout_counter: int = 0
    max_auth_fail: int | None = None
    owner_auth_set: bool = False


class Firmware(Fact):
    uefi: bool
    secure_boot: bool = False


class Inventory(Fact):
    """Everything the agent knows about the machine it runs on."""

    version: Literal[1] = 1
    dmi: Dmi = Dmi()
    firmware: Firmware
    tpm: Tpm | None = None
    memory: int
    """Bytes of RAM the kernel may use."""
    cpus: int = 1
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    unknown: tuple[str, ...] = ()
    """In words, what of the machine another tool's facts could not tell (`inventory.foreman`)."""

    def installed_by(self, plan: UUID) -> Marker | None:
        """Return the marker of a finished installation by this very plan, if a disk has one.

        One leg of a mirror is enough: a machine whose other disk was replaced keeps its data.
        """
        markers = (disk.marker for disk in self.disks if disk.marker is not None)
        return next((marker for marker in markers if marker.plan == plan), None)

    @property
    def name(self) -> str:
        """What to call this machine in events: DMI serial, else UUID, else the first MAC."""
        for candidate in (self.dmi.serial, self.dmi.uuid, *(nic.mac for nic in self.nics)):
            if candidate:
                return str(candidate)
        return "unknown"
