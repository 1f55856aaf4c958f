"""A machine that outlives its power-ons: disks, firmware variables, TPM, and who it is.

It is a directory. `branch` copies it on write in a moment, so that one installation serves many
tests; after that the original is frozen, since its branches read from it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qemu import disk, firmware
from qemu.disk import Extent, GiB, MiB
from qemu.errors import RigError
from qemu.machine import Bus, Drive, Identity, Kernel, Machine, Nic
from qemu.tpm import Tpm

_RECORD = "hardware.json"


@dataclass(frozen=True)
class Disk:
    """A disk that is built in. `name` is its id in the rig, `serial` what the guest sees."""

    name: str
    bus: Bus = "virtio"
    size: int = 12 * GiB
    serial: str = ""
    rotational: bool | None = None


PAIR = (Disk("d0", "virtio", serial="BPVIRT0"), Disk("d1", "nvme", serial="BPNVME1"))
"""Two blank disks on different buses: what most installations here are made on."""


@dataclass(frozen=True)
class Chassis:
    """Everything about a machine but what its disks and chips remember."""

    disks: tuple[Disk, ...] = PAIR
    tpm: bool = True
    memory: int = 2048 * MiB
    cpus: int = 2
    mac: str = "52:54:00:12:34:56"
    identity: Identity = field(default_factory=Identity)
    secure_boot: bool = False
    microsoft_keys: bool = False


class Hardware:
    """One machine in its directory; made by `create`, `open` or `branch`."""

    def __init__(self, directory: Path, chassis: Chassis) -> None:
        self.directory, self.chassis = directory, chassis

    @classmethod
    def create(cls, directory: Path, chassis: Chassis | None = None) -> Hardware:
        """Build a new machine with blank disks, a new TPM and the firmware as it is delivered."""
        chassis = chassis or Chassis()
        directory.mkdir(parents=True)
        made = cls(directory, chassis)
        for each in chassis.disks:
            disk.blank(made.disk(each.name), each.size)
        made._firmware().new_variables(made.variables)
        if chassis.tpm:
            Tpm.create(directory / "tpm")
        made._record(frozen=False)
        return made

    @classmethod
    def open(cls, directory: Path) -> Hardware:
        """Return a machine that was made before."""
        try:
            record = json.loads((directory / _RECORD).read_text())
        except FileNotFoundError:
            raise RigError(f"{directory}: no machine is there") from None
        found: dict[str, Any] = record["chassis"]
        found["disks"] = tuple(Disk(**each) for each in found["disks"])
        found["identity"] = Identity(**found["identity"])
        return cls(directory, Chassis(**found))

    def branch(self, directory: Path, *, new_tpm: bool = False) -> Hardware:
        """Return the same machine once more, with its own future; this one is frozen from now on.

        It must be switched off. With `new_tpm` the copy has another TPM, as after a change of the
        mainboard. Takes well under a second.
        """
        directory.mkdir(parents=True)
        self._record(frozen=True)
        made = Hardware(directory, self.chassis)
        for each in self.chassis.disks:
            disk.branch(made.disk(each.name), self.disk(each.name))
        shutil.copyfile(self.variables, made.variables)
        if self.chassis.tpm and new_tpm:
            Tpm.create(directory / "tpm")
        elif self.chassis.tpm:
            Tpm(self.directory / "tpm").copy(directory / "tpm")
        made._record(frozen=False)
        return made

    @property
    def frozen(self) -> bool:
        return bool(json.loads((self.directory / _RECORD).read_text())["frozen"])

    @property
    def variables(self) -> Path:
        """The firmware's variable store."""
        return self.directory / "variables.qcow2"

    @property
    def tpm(self) -> Tpm | None:
        return Tpm(self.directory / "tpm") if self.chassis.tpm else None

    def disk(self, name: str) -> Path:
        """Return the image of the disk with this name."""
        return self.directory / f"{name}.qcow2"

    def digests(self) -> dict[str, str]:
        """Return `disk.content_digest` of every disk."""
        return {each.name: disk.content_digest(self.disk(each.name)) for each in self.chassis.disks}

    def written(self) -> dict[str, tuple[Extent, ...]]:
        """Return `disk.written` of every disk: what was written since this branch was made."""
        return {each.name: disk.written(self.disk(each.name)) for each in self.chassis.disks}

    def replace_disk(self, name: str) -> None:
        """Put a blank disk in the place of this one: same bus, size and serial."""
        each = next(each for each in self.chassis.disks if each.name == name)
        self.disk(name).unlink()
        disk.blank(self.disk(name), each.size)

    def drive(self, name: str) -> Drive:
        """Return one disk as a machine's drive, for `Machine` or for hot-plugging."""
        each = next(each for each in self.chassis.disks if each.name == name)
        return Drive(
            each.name, self.disk(name), each.bus, each.serial or each.name,
            rotational=each.rotational,
        )  # fmt: skip

    def machine(
        self,
        name: str,
        kernel: Kernel | None = None,
        *,
        without: Collection[str] = (),
        strings: Sequence[str] = (),
        credentials: Sequence[tuple[str, bytes]] = (),
        on_reboot: Literal["reset", "exit"] | None = None,
    ) -> Machine:
        """Return a power-on of this machine, named for its logs; the disks `without` are pulled.

        Without a kernel it boots by its own boot order. `on_reboot` is `exit` with a kernel, which
        a reset would boot once more, and `reset` otherwise. More is added by dataclasses.replace.
        """
        if self.frozen:
            raise RigError(f"{self.directory}: has branches, which read from it; use a branch")
        return Machine(
            name=name,
            firmware=self._firmware(),
            variables=self.variables,
            drives=tuple(
                self.drive(each.name) for each in self.chassis.disks if each.name not in without
            ),
            nics=(Nic(self.chassis.mac),),
            memory=self.chassis.memory,
            cpus=self.chassis.cpus,
            tpm=self.tpm,
            identity=self.chassis.identity,
            kernel=kernel,
            strings=tuple(strings),
            credentials=tuple(credentials),
            on_reboot=on_reboot or ("exit" if kernel else "reset"),
        )

    def _firmware(self) -> firmware.Firmware:
        return firmware.find(
            secure_boot=self.chassis.secure_boot, microsoft_keys=self.chassis.microsoft_keys
        )

    def _record(self, *, frozen: bool) -> None:
        record = {"chassis": dataclasses.asdict(self.chassis), "frozen": frozen}
        (self.directory / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
