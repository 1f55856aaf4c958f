"""The ports: everything a step or a check may ask of the machine.

Steps see only these protocols; `wiring` gives them the adapters, tests give them fakes that keep
state. Every method raises `StepError` (mostly `CommandError`) when it cannot do what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.errors import Problem
from agent.inventory.erasure import Way
from agent.inventory.model import Disk
from agent.layout.model import Array, DiskLayout, FileSystem, Luks, VolumeGroup
from agent.payload.described import Described
from agent.payload.direct import Target as BlockDevice
from agent.payload.disk import Flashed, Verify
from agent.payload.fetch import Source
from agent.payload.manifest import Manifest
from agent.payload.options import ANYONE, Access
from agent.payload.stamp import Stamp
from agent.payload.stream import Tally
from agent.secret import Secret

Progress = Callable[[int, int], None]
"""Called with (done, total) in the unit of the step: bytes or items."""


class Storage(Protocol):
    """Blocks: partition tables, arrays, LUKS containers, volumes, file systems (blivet)."""

    def clear(self, disks: Sequence[Disk]) -> tuple[str, ...]:
        """Tear down and erase whatever lies on the disks, bottom up; return what was removed.

        Nothing is left that any scanner would find, at either end. Raises before the first write
        unless every device, held open from then on, is the disk that was chosen.
        """

    def ways_to_erase(self, disk: Disk) -> tuple[Way, ...]:
        """Return how this disk can erase itself, and why not otherwise; reads only."""

    def secure_erase(self, disk: Disk, way: Way) -> None:
        """Take apart what stands on the disk and have it erase all of itself.

        Raises before anything is changed unless the device is the disk that was chosen.
        """

    def identify(self, disk: Path) -> tuple[str | None, str | None, int]:
        """Return (serial, WWN, size in bytes) of the device behind the path, read now."""

    def partition(self, disks: Sequence[DiskLayout]) -> None: ...
    def mirror(self, arrays: Sequence[Array]) -> tuple[str, ...]:
        """Create the arrays; return the names of those that must resynchronise.

        The others lie on disks of which clear() proved that they read zeros everywhere.
        """

    def encrypt(self, luks: Luks, key: Secret) -> None:
        """Format as LUKS2 with `key` in keyslot 0, and open it as `luks.mapping`."""

    def make_volumes(self, group: VolumeGroup) -> None: ...
    def make_filesystems(self, filesystems: Sequence[FileSystem], progress: Progress) -> None: ...
    def reread(self, device: Path, links: Sequence[Path]) -> None:
        """Have the kernel read the device's partition table, and wait for these links to appear."""

    def release(self) -> None:
        """Close volumes, LUKS and arrays, top down, so that the machine may reboot."""


@dataclass(frozen=True)
class Keyslot:
    number: int
    token: str | None
    """Type of the LUKS2 token that names this keyslot: `clevis`, or None for a bare key."""


class KeyStore(Protocol):
    """Keyslots of a LUKS2 volume (cryptsetup)."""

    def add(self, device: Path, *, existing: Secret, new: Secret, slot: int) -> None: ...
    def opens(self, device: Path, key: Secret, slot: int | None = None) -> bool: ...
    def kill(self, device: Path, slot: int, *, other: Secret) -> None:
        """Destroy a keyslot; `other` must open another one."""

    def keyslots(self, device: Path) -> tuple[Keyslot, ...]: ...
    def room(self, device: Path) -> int:
        """Return the bytes that are free in the header for more keyslots and tokens."""


@dataclass(frozen=True)
class PinAnswer:
    """What one pin of a Clevis binding said when it was asked alone."""

    pin: str
    """`tpm2`, or the URL of a Tang server."""
    seconds: float
    error: str | None = None
    """Why it did not give its share; None when it did."""


class Binder(Protocol):
    """Clevis bindings of a LUKS2 volume. Never `-y`, never `regen`."""

    def bind(self, device: Path, *, existing: Secret, slot: int, config: str) -> None:
        """Bind with pin `sss` and the JSON `config` (public material only)."""

    def unlock(self, device: Path, slot: int) -> Secret:
        """Return the passphrase of a bound slot by asking Tang and the TPM as at boot."""

    def answers(self, device: Path, slot: int) -> tuple[PinAnswer, ...]:
        """Ask each Tang server and the TPM of a binding alone: "or" hides one that is dead."""


@dataclass(frozen=True)
class Advertisement:
    """A Tang server's verified keys: the JWS as JSON text, and the thumbprint that signed it."""

    url: str
    thumbprint: str
    jws: str


class Tang(Protocol):
    def advertisement(self, url: str, thumbprint: str) -> Advertisement:
        """Fetch and verify: the key with this S256 thumbprint must have signed it."""

    def verify(self, url: str, advertisement: str, thumbprint: str | None) -> Advertisement:
        """Check an advertisement that came with the plan; no network."""


class Tpm(Protocol):
    def problems(self, pcrs: Sequence[int]) -> Iterator[Problem]:
        """Yield what would make sealing fail; read only.

        Absent, lockout, no sha256 bank, owner password set; and one seal and unseal of random
        bytes that leaves nothing in the TPM.
        """

    def pcr(self, number: int) -> str:
        """Return the sha256 bank's value as hexadecimal digits."""


class Escrow(Protocol):
    """CMS envelopes (openssl cms)."""

    def problems(self, certificates: Sequence[str]) -> Iterator[Problem]: ...
    def envelope(self, content: Secret, certificates: Sequence[str]) -> bytes:
        """Encrypt with AES-256-GCM to every certificate (PEM); return DER bytes."""


class EscrowSink(Protocol):
    """Where envelopes are kept until somebody needs them."""

    def deliver(self, envelope: bytes, meta: Mapping[str, str]) -> str:
        """Hand over an envelope (DER); return the sha256 the receiver says it stored, in hex.

        `meta` says in plain words which machine and volume it is for. Raises `StepError` when
        nobody acknowledged it.
        """


@dataclass(frozen=True)
class BootEntry:
    number: str
    """Four hexadecimal digits, as in Boot0003."""
    label: str
    partuuid: str | None


class Firmware(Protocol):
    """UEFI boot entries (efibootmgr)."""

    def entries(self) -> tuple[BootEntry, ...]: ...
    def create(self, label: str, *, disk: Path, partition: int, loader: str) -> None:
        """Add an entry and put it first in BootOrder."""

    def delete(self, number: str) -> None: ...
    def boot_next(self, number: str) -> None:
        """Boot this entry once, at the next boot, whatever the order says (BootNext)."""


class Reports(Protocol):
    """The servers that follow the run."""

    def problems(self) -> Iterator[Problem]:
        """Yield which of them would not take events now; sends nothing."""


class Mounts(Protocol):
    """Mounts of the target's file systems in the live system."""

    def attach(self, filesystems: Sequence[FileSystem], root: Path) -> None:
        """Mount them below `root` in the order given, with their options where they matter."""

    def detach(self, root: Path) -> None:
        """Unmount everything below `root`, deepest first; nothing mounted there is no error."""

    def mounted(self, filesystem: FileSystem, at: Path) -> AbstractContextManager[Path]:
        """Mount one file system at `at` for the length of the context."""

    def verify_fstab(self, root: Path) -> str:
        """Run `findmnt --verify` in the target; raise unless it found no error."""

    def freeze(self, root: Path) -> None:
        """Write everything of the file system at `root` to its devices."""


class Target(Protocol):
    """Programs inside the installed tree."""

    def run(self, root: Path, *argv: str, timeout: float = 600) -> str:
        """Run in a chroot with /dev, /proc, /sys and /run bound, in its own mount namespace."""


class Images(Protocol):
    """Images on web servers and in registries."""

    def find(self, urls: Sequence[str], access: Access = ANYONE) -> tuple[Manifest, Source]:
        """Fetch, verify and read a manifest from the first mirror that has a good one.

        `access` is kept in the source, for the payload.

        Raises `ImageError` naming what every mirror did wrong, or `PlanError` when a manifest with
        a good signature is not valid.
        """

    def survey(self, reference: str, access: Access = ANYONE) -> tuple[Described, Source]:
        """Read a bootable container, named by its digest, from end to end; say what it makes.

        Raises `ImageError` when it is not to be had or not what the digest says, and `PlanError`
        when one of its layers is unsound.
        """

    def problems(self, image: Described, source: Source) -> Iterator[Problem]:
        """Yield why the payload could not be fetched now; brings one chunk and drops it.

        A container was fetched in whole by `survey`.
        """

    def lay(self, image: Described, source: Source, root: Path, progress: Progress) -> Tally:
        """Stream a tree into the mounted file systems at `root`; it came from `find` or `survey`.

        Every chunk is verified before it is used; `progress` counts bytes of the raw image. What
        each mirror did is returned.
        """

    def head(self, image: Manifest, source: Source) -> bytes:
        """Return the first MiB of an image, verified; nothing is written.

        Raises `ImageError`.
        """

    def flash(
        self,
        image: Manifest,
        source: Source,
        target: BlockDevice,
        stamp: Stamp,
        *,
        verify: Verify,
        progress: Progress,
    ) -> Flashed:
        """Write an image of a whole disk to a block device; its table is written last.

        Every chunk is verified before it is used, and what was written is read back: a sample, or
        all of it. Raises `StepError`; the device has no table then.
        """


@dataclass(frozen=True)
class MirrorState:
    name: str
    members: int
    active: int
    sync: str
    """`idle`, `resync`, `frozen`… (/sys/block/md*/md/sync_action)."""


class Kernel(Protocol):
    """Knobs and facts of the running kernel."""

    def mirrors(self) -> tuple[MirrorState, ...]: ...
    def hold_resync(self) -> None: ...
    def resume_resync(self) -> None: ...


@dataclass(frozen=True)
class Machine:
    """What the steps of one run share. Built by `wiring`, passed to every step."""

    storage: Storage
    keys: KeyStore
    clevis: Binder
    tang: Tang
    tpm: Tpm
    escrow: Escrow
    escrow_sink: EscrowSink
    reports: Reports
    firmware: Firmware
    images: Images
    mounts: Mounts
    target: Target
    kernel: Kernel
    authorities: bytes | None = None
    """PEM of the certificate authorities baked into the live image, None for the system's own."""
    root: Path = Path("/run/bedplate/target")
    """Where the new system is mounted while it is written."""
