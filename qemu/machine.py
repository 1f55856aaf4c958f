"""What an emulated machine is made of, and QEMU's command line for it. Pure: nothing is started.

A `Machine` is one power-on: the hardware as it is this time, and what it is told to boot. The
machine that keeps its disks, TPM and firmware variables between power-ons is `hardware.Hardware`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qemu.disk import MiB
from qemu.errors import RigError
from qemu.firmware import Firmware
from qemu.tpm import Tpm

Bus = Literal["virtio", "nvme", "sata", "scsi", "usb", "cdrom"]

# SMBIOS 2 tables are limited to 64 KiB in all, and QEMU adds its own.
_MOST_STRINGS = 56 * 1024


@dataclass(frozen=True)
class Drive:
    """A disk as the machine sees it. `name` is QEMU's id, and what hot-unplugging takes."""

    name: str
    file: Path
    bus: Bus = "virtio"
    serial: str = ""
    bootindex: int | None = None
    """Place in the order that the rig gives the firmware; entries made by efibootmgr need none."""
    format: Literal["qcow2", "raw"] = "qcow2"
    cache: Literal["unsafe", "writeback"] = "unsafe"
    """`unsafe` ignores the guest's flushes: fast, and safe unless QEMU itself is killed."""
    readonly: bool = False
    discarded: bool = False
    """Writes go to a temporary file and vanish with the machine (QEMU's snapshot=on)."""
    rotational: bool | None = None
    """Spinning or not, where the bus can tell (sata, scsi)."""


@dataclass(frozen=True)
class Nic:
    """A network card on QEMU's user network; the host's loopback is 10.0.2.2 for the guest."""

    mac: str = "52:54:00:12:34:56"
    model: str = "virtio-net-pci"
    bootindex: int | None = None
    forward: tuple[int, ...] = (22,)
    """Guest ports reachable from the host's loopback, each on a port that QEMU picks."""
    tftp: Path | None = None
    bootfile: str | None = None
    """Directory and file name offered for PXE."""


@dataclass(frozen=True)
class Identity:
    """What DMI says of the machine (SMBIOS type 1)."""

    serial: str = "BP0001"
    uuid: str = "0e0bd0f2-5f5b-4b2c-9c5f-0d1f6a3e7c01"
    manufacturer: str = "Bedplate"
    product: str = "Rig"


@dataclass(frozen=True)
class Kernel:
    """Direct kernel boot, after the firmware: a kernel with an initrd, or a UKI alone."""

    image: Path
    initrd: Path | None = None
    cmdline: str = ""


@dataclass(frozen=True)
class Machine:
    """One power-on of a machine."""

    name: str
    firmware: Firmware
    variables: Path
    """The firmware's variable store (qcow2), from `Firmware.new_variables`; it is written to."""
    drives: tuple[Drive, ...] = ()
    nics: tuple[Nic, ...] = (Nic(),)
    memory: int = 2048 * MiB
    cpus: int = 2
    tpm: Tpm | None = None
    identity: Identity = field(default_factory=Identity)
    kernel: Kernel | None = None
    """None boots by the firmware's own boot order."""
    strings: tuple[str, ...] = ()
    """SMBIOS type 11 strings, such as io.systemd.boot.kernel-cmdline-extra=…"""
    credentials: tuple[tuple[str, bytes], ...] = ()
    """System credentials (systemd.system-credentials(7)), handed over as type 11 strings."""
    hotplug_ports: int = 3
    resume: Path | None = None
    """A state from `Vm.freeze` to continue from; every other field but files must be as then."""
    on_reboot: Literal["reset", "exit"] = "reset"
    """Whether a reboot by the guest starts it again or switches the machine off.

    With `kernel` a reset boots that kernel again: use `exit`, and power on again without.
    """
    options: tuple[str, ...] = ()
    """Further options for QEMU."""

    def __post_init__(self) -> None:
        names = [drive.name for drive in self.drives]
        if len(set(names)) < len(names):
            raise RigError(f"{self.name}: two drives have the same name: {', '.join(names)}")
        size = sum(len(text) + 1 for text in self.type_11())
        if size > _MOST_STRINGS:
            raise RigError(
                f"{self.name}: strings and credentials take {size} bytes,"
                f" SMBIOS has room for {_MOST_STRINGS}"
            )

    def type_11(self) -> tuple[str, ...]:
        """Return all SMBIOS type 11 strings."""
        carried = tuple(
            f"io.systemd.credential.binary:{name}={base64.b64encode(value).decode()}"
            for name, value in self.credentials
        )
        return self.strings + carried


@dataclass(frozen=True)
class Links:
    """File descriptors that connect QEMU to the rig."""

    console: int
    shell: int
    control: int
    tpm: int | None


def command_line(machine: Machine, accelerator: tuple[str, ...], links: Links) -> list[str]:
    """Return QEMU's arguments, the program's own name not among them."""
    type_ = "q35,smm=on" if machine.firmware.secure_boot else "q35"
    args = [
        "-name", machine.name, "-machine", type_, *accelerator,
        "-smp", str(machine.cpus), "-m", f"{machine.memory // MiB}M",
        "-nodefaults", "-no-user-config", "-display", "none",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip
    args += _firmware(machine)
    args += _serial("console", links.console) + _serial("shell", links.shell)
    args += ["-chardev", f"socket,id=control,fd={links.control}", "-mon", "control,mode=control"]
    if links.tpm is not None:
        args += ["-chardev", f"socket,id=tpm,fd={links.tpm}"]
        args += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]
    for number in range(machine.hotplug_ports):
        args += ["-device", f"pcie-root-port,id={port(number)},chassis={number + 1},slot={number}"]
    for drive in machine.drives:
        args += _drive(drive)
    for number, nic in enumerate(machine.nics):
        args += _nic(number, nic)
    args += _smbios(machine)
    args += _boot(machine)
    return args + list(machine.options)


def kernel_options(line: str) -> str:
    """Return the type 11 string that makes systemd-boot add kernel options (254 and later).

    It reaches an installed system without touching its disks, and leaves PCR 7 as it is.
    """
    return f"io.systemd.boot.kernel-cmdline-extra={line}"


def port(number: int) -> str:
    """Return the id of the hot-plug port with this number, counted from 0."""
    return f"port{number}"


def device(drive: Drive) -> dict[str, str | int]:
    """Return the drive's device with its properties, for -device and for QMP's device_add."""
    driver = {
        "virtio": "virtio-blk-pci", "nvme": "nvme", "sata": "ide-hd", "scsi": "scsi-hd",
        "usb": "usb-storage", "cdrom": "ide-cd",
    }[drive.bus]  # fmt: skip
    properties: dict[str, str | int] = {"driver": driver, "id": drive.name, "drive": node(drive)}
    if drive.serial or drive.bus == "nvme":  # nvme insists on one
        properties["serial"] = drive.serial or drive.name
    if drive.bootindex is not None:
        properties["bootindex"] = drive.bootindex
    if drive.rotational is not None:
        if drive.bus not in ("sata", "scsi"):
            raise RigError(f"{drive.name}: a disk on {drive.bus} cannot say whether it rotates")
        properties["rotation_rate"] = 7200 if drive.rotational else 1  # ATA: 1 is non-rotating
    return properties


def node(drive: Drive) -> str:
    """Return the name of the drive's block node."""
    return f"{drive.name}-disk"


def _escaped(value: object) -> str:
    return str(value).replace(",", ",,")


def _options(properties: dict[str, str | int]) -> str:
    head, *rest = properties.items()
    return ",".join([str(head[1]), *(f"{name}={_escaped(value)}" for name, value in rest)])


def _firmware(machine: Machine) -> list[str]:
    code, variables = _escaped(machine.firmware.code), _escaped(machine.variables.resolve())
    args = [
        "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
        "-drive", f"if=pflash,format=qcow2,file={variables}",
    ]  # fmt: skip
    if machine.firmware.secure_boot:
        args += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        args += ["-global", "ICH9-LPC.disable_s3=1"]
    return args


def _serial(name: str, descriptor: int) -> list[str]:
    return ["-chardev", f"socket,id={name},fd={descriptor}", "-serial", f"chardev:{name}"]


def _drive(drive: Drive) -> list[str]:
    backend: dict[str, str | int] = {
        "if": "none", "id": node(drive), "format": drive.format, "cache": drive.cache,
        "discard": "unmap", "file": str(drive.file.resolve()),
    }  # fmt: skip
    if drive.readonly:
        backend["readonly"] = "on"
    if drive.discarded:
        backend["snapshot"] = "on"
    args = ["-drive", ",".join(f"{name}={_escaped(value)}" for name, value in backend.items())]
    if drive.bus == "usb":
        args += ["-device", f"qemu-xhci,id={drive.name}-hub"]
    if drive.bus == "scsi":
        args += ["-device", f"virtio-scsi-pci,id={drive.name}-hba"]
    properties = device(drive)
    if drive.bus in ("usb", "scsi"):
        properties["bus"] = f"{drive.name}-{'hub' if drive.bus == 'usb' else 'hba'}.0"
    return [*args, "-device", _options(properties)]


def _nic(number: int, nic: Nic) -> list[str]:
    backend = [f"user,id=net{number}"]
    # Port 0: the kernel picks a free one, so that two rigs can never want the same.
    backend += [f"hostfwd=tcp:127.0.0.1:0-:{guest}" for guest in nic.forward]
    if nic.tftp is not None:
        backend.append(f"tftp={_escaped(nic.tftp.resolve())}")
    if nic.bootfile is not None:
        backend.append(f"bootfile={_escaped(nic.bootfile)}")
    properties: dict[str, str | int] = {
        "driver": nic.model, "id": f"nic{number}", "netdev": f"net{number}", "mac": nic.mac,
        "romfile": "",  # OVMF has its own driver; iPXE's would only cost time
    }  # fmt: skip
    if nic.bootindex is not None:
        properties["bootindex"] = nic.bootindex
    return ["-netdev", ",".join(backend), "-device", _options(properties)]


def _smbios(machine: Machine) -> list[str]:
    who = machine.identity
    args = [
        "-uuid", who.uuid,
        "-smbios", ",".join([
            "type=1", f"manufacturer={_escaped(who.manufacturer)}",
            f"product={_escaped(who.product)}", f"serial={_escaped(who.serial)}",
            f"uuid={who.uuid}",
        ]),
    ]  # fmt: skip
    for text in machine.type_11():
        args += ["-smbios", f"type=11,value={_escaped(text)}"]
    return args


def _boot(machine: Machine) -> list[str]:
    args: list[str] = []
    if machine.kernel is not None:
        args += ["-kernel", str(machine.kernel.image.resolve())]
        if machine.kernel.initrd is not None:
            args += ["-initrd", str(machine.kernel.initrd.resolve())]
        if machine.kernel.cmdline:
            args += ["-append", machine.kernel.cmdline]
    if machine.on_reboot == "exit":
        args.append("-no-reboot")
    if machine.resume is not None:
        args += ["-incoming", "defer"]
    return args
