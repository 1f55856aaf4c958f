"""A whole machine of fakes, its server room, and a plan it can carry out.

The fakes of storage, keys and target are put together as the real things are: what is encrypted
has a keyslot, what is partitioned can be a boot entry, what is not formatted cannot be mounted.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from agent.errors import ImageError, Problem, StepError
from agent.find import Found
from agent.inventory.model import Disk, Dmi, Firmware, Inventory, Nic, Tpm
from agent.keyslots import INSTALL
from agent.layout.extents import GIB
from agent.layout.model import FileSystem, Luks
from agent.machine import BootEntry, Machine, Progress
from agent.payload.described import Described
from agent.payload.direct import Target as BlockDevice
from agent.payload.disk import Flashed, Verify
from agent.payload.fetch import Source
from agent.payload.manifest import Manifest
from agent.payload.options import ANYONE, Access
from agent.payload.stamp import Stamp
from agent.payload.stream import Tally
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.report.event import Event, envelope_of
from agent.report.reporter import Reporter
from agent.secret import Secret
from agent.trust import Trust
from tests.unit import fakes_storage, fakes_target
from tests.unit.fakes_keys import (
    FakeClevis,
    FakeEscrow,
    FakeKeys,
    FakeTang,
    FakeTpm,
    advertisement,
)
from tests.unit.payload.images import packed
from tests.unit.plan import plans
from tests.unit.target.archive import GENERIC, newc
from tests.unit.target.sample import KERNEL, debian

TANG = "http://192.0.2.7:7500"
MANIFEST = "https://images.example.com/debian13.json"
TOKEN = "dG9rZW4tb2YtdGhlLXJlcG9ydC1zZXJ2ZXI"
DISKS = (
    Disk(path="/dev/vda", serial="SN1", size=64 * GIB, transport="virtio"),
    Disk(path="/dev/nvme0n1", serial="SN2", wwn="eui.2", size=64 * GIB, transport="nvme"),
)
SERVER = Inventory(
    dmi=Dmi(vendor="Example", product="Server", serial="CZ1234", uuid=UUID(int=9)),
    firmware=Firmware(uefi=True),
    tpm=Tpm(device="/dev/tpmrm0"),
    memory=4 * GIB,
    cpus=2,
    disks=DISKS,
    nics=(Nic(name="eth0", mac="52:54:00:12:34:56", carrier=True),),
)


def order(unlock: str | None = "tpm2 and tang", **changes: Any) -> bytes:
    """Return a plan for `SERVER`, as YAML: a mirror, opened by `unlock`, None for no encryption."""
    content = plans.small(disks={"count": 2}, storage={"preset": "stig-rhel9"})
    if unlock is not None:
        servers = [{"url": TANG, "thumbprint": plans.THUMBPRINT}] if "tang" in unlock else []
        content["encryption"] = plans.encrypted(unlock, tang=servers)["encryption"]
        url = "https://deploy.example.com/v1/events"
        content["report"] = [{"type": "http", "url": url, "token": TOKEN}]
    content |= changes
    return plans.text_of({key: value for key, value in content.items() if value is not None})


def plan(unlock: str | None = "tpm2 and tang", **changes: Any) -> Plan:
    return parse(order(unlock, **changes))


def system(root: Path) -> None:
    """Write the files of a Debian that can start this machine."""
    debian(root)
    (root / f"boot/initrd.img-{KERNEL}").write_bytes(gzip.compress(newc(GENERIC)))


@functools.cache
def sample_manifest() -> Manifest:
    """Return the manifest that the real `pack` makes of `system`."""
    with tempfile.TemporaryDirectory() as place:
        root, out = Path(place, "root"), io.BytesIO()
        system(root)
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.add(root, ".")
        return packed(out.getvalue(), Path(place), "debian13").manifest


@dataclass
class HostStorage(fakes_storage.FakeStorage):
    """Storage whose encryption has keyslots, and which cannot close what is still mounted."""

    header: FakeKeys = field(default_factory=lambda: FakeKeys({}))
    fails: str = ""
    """The call that does not work: `make_volumes`, `release`."""
    synced: list[str] = field(default_factory=list)
    """What each array was doing when it was let go of."""

    def encrypt(self, luks: Luks, key: Secret) -> None:
        super().encrypt(luks, key)
        self.header.slots = {INSTALL: key}

    def make_volumes(self, group: Any) -> None:
        self._fail("make_volumes")
        super().make_volumes(group)

    def release(self) -> None:
        self.synced = [mirror.sync for mirror in self.kernel.mirrors()]
        super().release()
        self._fail("release")

    def _fail(self, call: str) -> None:
        if self.fails == call:
            raise StepError(f"{call}: does not work today")


@dataclass
class HostMounts(fakes_storage.FakeMounts):
    """Mounts of what was formatted; what is in an ESP stays in `esps` when it is unmounted."""

    esps: Path = field(kw_only=True)

    def attach(self, filesystems: Sequence[FileSystem], root: Path) -> None:
        super().attach(filesystems, root)
        for filesystem in filesystems:
            (root / filesystem.mount.lstrip("/")).mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def mounted(self, filesystem: FileSystem, at: Path) -> Iterator[Path]:
        if filesystem.device not in self.storage.formats:
            raise StepError(f"{filesystem.device}: is not formatted")
        store = fakes_target.FakeMounts(self.esps)
        with super().mounted(filesystem, at), store.mounted(filesystem, at):
            yield at


@dataclass
class HostFirmware(fakes_target.FakeFirmware):
    """Boot entries that know the partition they point to."""

    storage: fakes_storage.FakeStorage = field(kw_only=True)

    def create(self, label: str, *, disk: Path, partition: int, loader: str) -> None:
        super().create(label, disk=disk, partition=partition, loader=loader)
        table = self.storage.tables.get(disk)
        if table is None:  # the image brought it
            return
        found = next(p for p in table.partitions if p.number == partition)
        self.order[0] = BootEntry(self.order[0].number, label, str(found.partuuid))


@dataclass
class FakeImages:
    """One image: `wrong` is why it is not to be had, `away` why its payload is not, `cut` why it
    breaks off half-way.
    """

    mounts: fakes_storage.FakeMounts
    manifest: Manifest = field(default_factory=sample_manifest)
    wrong: str = ""
    away: str = ""
    cut: str = ""
    first: bytes = b""
    """The first MiB of a whole-disk image."""
    laid: list[Path] = field(default_factory=list)
    legs: tuple[Path, ...] = ()
    """What the last `flash` was to read back, where that was a mirror."""
    stamped: bytes = b""
    others: dict[str, Manifest] = field(default_factory=dict)
    """By address, what overlays are."""
    order: list[str] = field(default_factory=list)
    """Names of what was laid, one over the other."""

    def find(self, urls: Sequence[str], access: Access = ANYONE) -> tuple[Manifest, Source]:
        if self.wrong:
            raise ImageError(self.wrong)
        if urls[0] in self.others:
            payload = tuple(url.replace(".json", ".tar.zst") for url in urls)
            source = Source(urls[0], "1" * 64, "f" * 16, payload, frozenset(), access)
            return self.others[urls[0]], source
        payload = tuple(url.replace(".json", ".tar.zst") for url in urls)
        source = Source(urls[0], "0" * 64, "f" * 16, payload, frozenset(), access)
        return self.manifest, source

    def survey(self, reference: str, access: Access = ANYONE) -> tuple[Described, Source]:
        if self.wrong:
            raise ImageError(self.wrong)
        url = reference.replace("@", "/blobs/")
        found = Source(reference, "0" * 64, "", (url,), frozenset(), access, ("sha256:1",))
        return self.manifest, found

    def problems(self, image: Described, source: Source) -> Iterator[Problem]:
        if self.away:
            yield Problem("image.manifest", f"{source.payload_urls[0]}: {self.away}")

    def lay(self, image: Described, source: Source, root: Path, progress: Progress) -> Tally:
        if root not in self.mounts.mounted_at:
            raise StepError(f"{root}: is not mounted")
        self.laid.append(root)
        progress(image.size // 2, image.size)
        if self.cut:
            raise ImageError(self.cut)
        self.order.append(image.name)
        if image is self.manifest:
            system(root)
        progress(image.size, image.size)
        first, *others = source.payload_urls
        received = {first: image.payload.size, **dict.fromkeys(others, 0)}
        return Tally(received, dict.fromkeys(others, 1))

    def head(self, image: Manifest, source: Source) -> bytes:
        if self.away:
            raise ImageError(f"{source.payload_urls[0]}: {self.away}")
        return self.first

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
        size = self.mounts.storage.size_of(target.path)
        if size != target.size:
            raise StepError(f"{target.path}: has {size} bytes, the chosen one has {target.size}")
        progress(image.size // 2, image.size)
        if self.cut:
            raise ImageError(self.cut)
        progress(image.size, image.size)
        self.laid.append(target.path)
        self.legs = target.legs
        self.stamped = stamp.page()
        middle = image.size - (2 << 20)
        first, *others = source.payload_urls
        return Flashed(
            device=target.path,
            written=middle,
            zeroed=0,
            zeroed_by="",
            direct=True,
            verified=verify,
            read_back=middle if verify == "full" else 1 << 20,
            backup_table_at=size - 33 * 512,
            seconds=2.0,
            received={first: image.payload.size, **dict.fromkeys(others, 0)},
            corrupt={},
        )


@dataclass
class FakeReports:
    reasons: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for number, reason in enumerate(self.reasons):
            yield Problem(f"report[{number}]", reason)


@dataclass
class Receiver:
    """A report server that keeps every event and every envelope."""

    name: str = "https://deploy.example.com/v1/events"
    events: list[Event] = field(default_factory=list)
    envelopes: list[bytes] = field(default_factory=list)

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)

    def deliver(self, event: Event, timeout: float) -> str:
        found = envelope_of(event)
        assert found is not None
        self.envelopes.append(found[0])
        return found[1]

    def told(self) -> list[str]:
        """Return `step state` of every event that is no progress."""
        return [f"{event.step} {event.state}" for event in self.events if not event.is_progress]


class FakeHost:
    """A machine and what it can reach; its ports keep state below `place`.

    It is also the `World` of a session, whose events all reach `receiver`.
    """

    def __init__(self, place: Path, inventory: Inventory = SERVER) -> None:
        self.found = inventory
        self.root = place / "target"
        self.keys = FakeKeys({})
        self.storage = HostStorage(
            {Path(d.path): (d.serial, d.wwn, d.size) for d in inventory.disks}, header=self.keys
        )
        self.kernel = self.storage.kernel
        self.mounts = HostMounts(self.storage, esps=place / "esps")
        self.clevis = FakeClevis(self.keys)
        self.tang = FakeTang({TANG: advertisement(TANG, plans.THUMBPRINT)})
        self.tpm = FakeTpm()
        self.escrow = FakeEscrow()
        self.reports = FakeReports()
        self.firmware = HostFirmware(storage=self.storage)
        self.images = FakeImages(self.mounts)
        self.target = fakes_target.FakeTarget({"systemctl": lambda root, argv: None})
        self.receiver = Receiver()
        self.reporter = Reporter("", "", [self.receiver], run="run-1")
        self.followed: list[Plan] = []

    def inventory(self) -> Inventory:
        return self.found

    def judge(self, found: Found) -> Trust:
        """Believe everything: what is believed is tested elsewhere."""
        return Trust("0123456789abcdef" if found.signature else None, fresh=False)

    def follow(self, plan: Plan) -> None:
        self.followed.append(plan)

    def environment(self) -> Mapping[str, Any]:
        return {"kernel": "6.12"}

    def machine(self) -> Machine:
        return fake_machine(self)

    @property
    def untouched(self) -> bool:
        """Whether nothing was written anywhere: no disk, no firmware, no tree, no envelope sent."""
        firmware = (self.firmware.created, self.firmware.next)
        written = (self.storage.calls, self.keys.slots, self.mounts.mounted_at, self.images.laid)
        return not any((*written, *firmware, self.target.ran, self.receiver.envelopes)) and not (
            self.root.exists() or self.mounts.esps.exists()
        )


def fake_machine(host: FakeHost) -> Machine:
    """Assemble the ports of a host."""
    return Machine(
        storage=host.storage,
        keys=host.keys,
        clevis=host.clevis,
        tang=host.tang,
        tpm=host.tpm,
        escrow=host.escrow,
        escrow_sink=host.reporter,
        reports=host.reports,
        firmware=host.firmware,
        images=host.images,
        mounts=host.mounts,
        target=host.target,
        kernel=host.kernel,
        root=host.root,
    )
