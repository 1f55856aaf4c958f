"""A target as Debian installs itself: initramfs-tools builds the initrd, shim and GRUB start it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from qemu.facts import Facts, facts, pins
from qemu.hardware import Chassis, Hardware
from qemu.site import Site, packed_sample
from tests.machine.conftest import DISKS, install, up


@dataclass(frozen=True)
class Grub:
    """The machine after its first start, and what it said then."""

    hardware: Hardware
    first: Facts
    firmware: str
    files: str
    sums: str


@pytest.fixture(scope="module")
def machine(site: Site) -> Grub:
    """Install it, start it, let it seal itself, switch it off."""
    hardware = site.lab.hardware("grub", Chassis(disks=DISKS))
    manifest = site.offer(packed_sample("grub"))
    plan = site.plan(hardware, image={"manifest": manifest}, storage={"preset": "plain"})
    install(site, hardware, plan, "grub-install")
    with site.lab.booted(hardware.machine("grub-first-boot"), until=up) as vm:
        vm.ssh.run("until [ -e /var/lib/bedplate/sealed.json ]; do sleep 1; done", timeout=300)
        vm.ssh.run("systemctl is-system-running --wait", timeout=300, check=False)
        told = facts(vm)
        entries = vm.ssh.run("efibootmgr").stdout
        files = vm.ssh.run("cd /boot/efi && find . -type f | sort").stdout
        sums = vm.ssh.run(
            "for esp in /boot/efi /boot/efi2; do (cd $esp && find . -type f -exec sha256sum {} + |"
            " sort); done"
        ).stdout
        vm.poweroff()
    return Grub(hardware, told, entries, files, sums)


def test_it_comes_up_by_itself_and_nothing_failed(machine: Grub) -> None:
    assert machine.first.said["hostname"].strip() == "db01.example.com"
    assert (machine.first.state, machine.first.said["failed"].strip()) == ("running", "")
    assert machine.first.said["mdstat"].count("[2/2] [UU]") == 2


def test_tang_and_tpm_opened_it_and_it_is_sealed_to_pcr_7(machine: Grub) -> None:
    [config] = machine.first.bindings().values()
    found = dict(pins(config))
    assert config["sss"]["t"] == 2
    assert found["tpm2"]["pcr_ids"] == "7"
    assert "tang" in found


def test_each_esp_has_shim_and_grub_and_both_are_equal(machine: Grub) -> None:
    for path in ("EFI/debian/shimx64.efi", "EFI/debian/grub.cfg", "EFI/BOOT/BOOTX64.EFI"):
        assert f"./{path}" in machine.files
    lines = machine.sums.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


def test_firmware_starts_the_signed_shim_of_each_disk(machine: Grub) -> None:
    assert machine.firmware.count(r"\EFI\debian\shimx64.efi") == 2


def test_it_boots_with_the_first_disk_removed(site: Site, machine: Grub) -> None:
    half = site.lab.branch(machine.hardware, "grub-without-d0")
    with site.lab.booted(half.machine("grub-without-d0", without=["d0"]), until=up) as vm:
        told = facts(vm)
        assert told.said["hostname"].strip() == "db01.example.com"
        assert told.said["mdstat"].count("[2/1]") >= 1
