"""An operator's own keys: enrolled from the live image, and what the firmware starts then."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qemu.hardware import Chassis, Disk, Hardware
from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.program import repository, run
from tests.boot.media import plan, text, with_medium

FRESH = Chassis(disks=(Disk("d0", serial="BPVIRT0"),), tpm=False, secure_boot=True)
"""Firmware that verifies, without keys: in setup mode."""


@pytest.fixture(scope="module")
def keys(lab: Lab) -> Path:
    """An operator's keys, as `bedplate keys make` makes them."""
    directory = lab.directory / "secureboot"
    run(repository() / ".venv/bin/python", "-m", "agent", "keys", "make", "-d", directory)
    return directory


@pytest.fixture(scope="module")
def owned(lab: Lab, rig: LiveImage, keys: Path) -> Hardware:
    """A machine whose firmware took the keys from `bedplate keys enroll` in the live image."""
    hardware = lab.hardware("owned", FRESH)
    with lab.booted(lab.live(hardware, "enroll", image=rig)) as vm:
        vm.shell.wait()
        assert vm.shell.run("bedplate keys status").text.strip() == "setup"
        for name in ("PK", "KEK", "db"):
            vm.ssh.write(f"/run/{name}.auth", (keys / f"{name}.auth").read_bytes())
        vm.shell.run("bedplate keys enroll -d /run")
        vm.poweroff()
    return hardware


def medium_of(lab: Lab, uki: Path, name: str) -> Path:
    """Return a disk with nothing but an ESP that starts this UKI, as a stick of an operator."""
    image = lab.directory / f"{name}.raw"
    image.unlink(missing_ok=True)
    size = uki.stat().st_size // 2**20 + 8
    run("truncate", "-s", f"{size}M", image)
    run("mkfs.vfat", "-F", "32", "-s", "1", image)
    run("mmd", "-i", image, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", image, uki, "::/EFI/BOOT/BOOTX64.EFI")
    return image


def test_a_uki_signed_by_the_operator_starts_and_finds_its_plan(
    lab: Lab, rig: LiveImage, owned: Hardware, keys: Path
) -> None:
    signed = lab.directory / "signed.efi"
    run("sbsign", "--key", keys / "db.key", "--cert", keys / "db.crt", "--output", signed, rig.uki)
    machine = with_medium(
        owned, "boot-signed", medium_of(lab, signed, "signed"), "virtio",
        credentials=(lab.login, ("bedplate.plan", text(plan(lab)))),
    )  # fmt: skip
    with lab.booted(machine, until="login|NOT") as vm:
        vm.wait_for("NOT INSTALLED", 300)
        assert "Secure boot enabled" in vm.ssh.run("dmesg").stdout
        assert vm.ssh.run("bedplate keys status").stdout.strip() == "on"


def test_a_uki_that_nobody_signed_is_refused_by_the_firmware(
    lab: Lab, rig: LiveImage, owned: Hardware
) -> None:
    unsigned = lab.directory / "unsigned.efi"
    shutil.copyfile(rig.uki, unsigned)
    run("sh", "-c", f"sbattach --remove {unsigned} || true")
    machine = with_medium(owned, "boot-unsigned", medium_of(lab, unsigned, "unsigned"), "virtio")
    with lab.power_on(replace(machine, nics=())) as vm:
        vm.wait_for("Access Denied|Security Violation", 300, unless="Linux version|NOT INSTALLED")
