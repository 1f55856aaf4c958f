"""QEMU's command line for a machine: what is easy to get wrong in it."""

from __future__ import annotations

import base64
import dataclasses
import itertools
from pathlib import Path

import pytest

from qemu.accel import TCG
from qemu.errors import RigError
from qemu.firmware import Firmware
from qemu.machine import Drive, Identity, Kernel, Links, Machine, Nic, command_line

FIRMWARE = Firmware(Path("/fw/code.fd"), Path("/fw/vars.fd"))
MACHINE = Machine("db01", FIRMWARE, Path("/m/variables.qcow2"))
LINKS = Links(console=11, shell=12, control=13, tpm=None)


def options(machine: Machine, name: str, links: Links = LINKS) -> list[str]:
    """Return the values of every option with this name."""
    args = command_line(machine, TCG, links)
    return [value for option, value in itertools.pairwise(args) if option == name]


def test_two_serial_lines_and_the_control_line_use_the_given_descriptors() -> None:
    sockets = [each for each in options(MACHINE, "-chardev") if each.startswith("socket,")]
    assert [each.rpartition("fd=")[2] for each in sockets] == ["11", "12", "13"]
    assert options(MACHINE, "-serial") == ["chardev:console", "chardev:shell"]


def test_a_machine_has_a_tpm_only_when_a_line_to_one_is_given() -> None:
    assert options(MACHINE, "-tpmdev") == []
    assert options(MACHINE, "-tpmdev", dataclasses.replace(LINKS, tpm=14)) == [
        "emulator,id=tpm0,chardev=tpm"
    ]


def test_commas_are_doubled_wherever_a_text_goes_into_an_option() -> None:
    machine = dataclasses.replace(
        MACHINE,
        identity=Identity(serial="A,B"),
        strings=("io.systemd.boot.kernel-cmdline-extra=console=ttyS1,115200",),
        drives=(Drive("d0", Path("/m/a,b.qcow2"), serial="S,1"),),
    )
    type_1, type_11 = options(machine, "-smbios")
    assert "serial=A,,B," in type_1
    assert type_11.endswith("=console=ttyS1,,115200")
    assert any("/m/a,,b.qcow2" in each for each in options(machine, "-drive"))
    assert "virtio-blk-pci,id=d0,drive=d0-disk,serial=S,,1" in options(machine, "-device")


def test_a_credential_travels_as_base64_in_a_type_11_string() -> None:
    machine = dataclasses.replace(MACHINE, credentials=(("bedplate.plan", b"version: 1\n\0"),))
    prefix = "type=11,value=io.systemd.credential.binary:bedplate.plan="
    value = options(machine, "-smbios")[1]
    assert base64.b64decode(value.removeprefix(prefix)) == b"version: 1\n\0"


def test_credentials_that_smbios_has_no_room_for_are_refused() -> None:
    with pytest.raises(RigError, match="db01: strings and credentials take"):
        dataclasses.replace(MACHINE, credentials=(("bedplate.plan", bytes(60_000)),))


def test_two_drives_of_one_name_are_refused() -> None:
    drive = Drive("d0", Path("a"))
    with pytest.raises(RigError, match="same name: d0, d0"):
        dataclasses.replace(MACHINE, drives=(drive, drive))


def test_an_nvme_disk_always_has_a_serial() -> None:
    machine = dataclasses.replace(MACHINE, drives=(Drive("d1", Path("a"), "nvme"),))
    assert "nvme,id=d1,drive=d1-disk,serial=d1" in options(machine, "-device")


def test_only_buses_that_can_tell_say_whether_a_disk_rotates() -> None:
    spinning = dataclasses.replace(
        MACHINE, drives=(Drive("d0", Path("a"), "sata", rotational=True),)
    )
    assert "ide-hd,id=d0,drive=d0-disk,rotation_rate=7200" in options(spinning, "-device")
    with pytest.raises(RigError, match="nvme cannot say"):
        options(
            dataclasses.replace(MACHINE, drives=(Drive("d0", Path("a"), "nvme", rotational=True),)),
            "-device",
        )


def test_without_a_kernel_the_firmware_decides_what_boots() -> None:
    args = command_line(MACHINE, TCG, LINKS)
    assert "-kernel" not in args
    assert not any("bootindex" in each for each in args)
    booted = dataclasses.replace(MACHINE, kernel=Kernel(Path("/k"), Path("/i"), "a=b,c"))
    assert options(booted, "-append") == ["a=b,c"]


def test_the_host_chooses_the_forwarded_port() -> None:
    machine = dataclasses.replace(MACHINE, nics=(Nic("52:54:00:00:00:01", forward=(22, 80)),))
    assert options(machine, "-netdev") == [
        "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:0-:80"
    ]
