"""Each family installs, starts by itself, seals itself, and starts with a disk missing."""

from __future__ import annotations

import shutil

from qemu.facts import facts, pins
from qemu.hardware import Chassis
from qemu.site import Site
from tests.families.conftest import Booted, Installed, Start, kernel_of
from tests.families.families import Family
from tests.machine.conftest import DISKS, up


def test_it_installs_with_its_own_initrd_and_loader(family: Family, installed: Installed) -> None:
    """A generic initrd of dracut is the image's; initramfs-tools makes one for each host."""
    said = installed.evidence["build-initrd"]
    [initrd] = (of_kernel for of_kernel in said.values() if isinstance(of_kernel, dict))
    assert initrd["built"] == (family.loader == "grub")
    named = {"grub": "GRUB", "systemd-boot": "systemd-boot"}[family.loader]
    assert installed.evidence["install-boot-loader"]["boot_loader"] == named


def test_it_comes_up_by_itself_and_nothing_failed(family: Family, booted: Booted) -> None:
    assert booted.system.endswith(family.pretty)
    comes_up(booted.start)


def test_tang_and_tpm_opened_it_and_it_is_sealed_to_pcr_7(booted: Booted) -> None:
    sealed(booted.start)


def test_both_esps_have_the_loader_and_the_fallback_and_are_equal(
    family: Family, booted: Booted
) -> None:
    esps = booted.start.esps
    assert esps.first == esps.second
    assert {*family.files, "EFI/BOOT/BOOTX64.EFI"} <= esps.first.keys()


def test_firmware_has_an_entry_for_each_disk(family: Family, booted: Booted) -> None:
    loader = "\\" + family.files[0].replace("/", "\\")
    assert booted.firmware.lower().count(loader.lower()) == 2
    for disk in DISKS:
        assert disk.serial in booted.firmware


def test_its_file_systems_can_be_read_by_older_systems(booted: Booted) -> None:
    """GRUB before 2.12, e2fsck before 1.47 and Linux before 5.19 do not know these features."""
    assert "has_journal" in booted.features
    assert not {"orphan_file", "metadata_csum_seed"} & set(booted.features.split())
    assert "nrext64=0" in booted.features


def test_it_boots_with_the_first_disk_removed_and_no_boot_entry_left(
    site: Site, family: Family, booted: Booted
) -> None:
    """The firmware has forgotten everything and starts EFI/BOOT of the second disk."""
    name = f"{family}-without-d0"
    half = site.lab.branch(booted.hardware, name)
    forgetful = site.lab.hardware(f"{name}-variables", Chassis(disks=DISKS))
    shutil.copyfile(forgetful.variables, half.variables)
    before = site.tang.recoveries()
    with site.lab.booted(half.machine(name, without=["d0"]), until=up) as vm:
        assert site.tang.recoveries() > before
        told = facts(vm)
        assert told.said["hostname"].strip() == "db01.example.com"
        assert told.said["mdstat"].count("[2/1]") >= 1
        assert kernel_of(vm) == booted.start.kernel
        vm.poweroff()


def comes_up(start: Start) -> None:
    assert start.facts.said["hostname"].strip() == "db01.example.com"
    assert (start.facts.state, start.facts.said["failed"].strip()) == ("running", "")
    assert start.facts.said["mdstat"].count("[2/2] [UU]") == 2


def sealed(start: Start) -> None:
    assert start.tang >= 1
    [config] = start.facts.bindings().values()
    found = dict(pins(config))
    assert config["sss"]["t"] == 2
    assert found["tpm2"]["pcr_ids"] == "7"
    assert "tang" in found
