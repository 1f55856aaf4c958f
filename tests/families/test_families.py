"""Each family installs, boots by itself, changes its kernel and boots that by itself."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

import pytest

from qemu.facts import Facts, facts, pins
from qemu.hardware import Chassis, Hardware
from qemu.program import repository
from qemu.site import FAMILIES, Site, packed_sample
from qemu.vm import Vm
from tests.machine.conftest import DISKS, install, up

UPDATE = 3600.0
"""Seconds for a kernel's package and the initrd it builds: five minutes on a quiet host."""


@dataclass(frozen=True)
class Family:
    """What is special about one: the directory on the ESPs, and what firmware starts from it."""

    name: str
    loader: str
    files: tuple[str, ...]


SYSTEMD_BOOT = ("EFI/systemd/systemd-bootx64.efi", "loader/loader.conf")
SHIM = ("EFI/debian/grubx64.efi", "EFI/debian/grub.cfg", "EFI/BOOT/grubx64.efi")
KNOWN = (
    Family("packages", r"\EFI\systemd\systemd-bootx64.efi", SYSTEMD_BOOT),
    Family("grub", r"\EFI\debian\shimx64.efi", SHIM),
    Family("bookworm", r"\EFI\debian\shimx64.efi", SHIM),
)


FEATURES = "dumpe2fs -h $(findmnt -no SOURCE /boot) 2>/dev/null | grep features; xfs_info /"


@dataclass(frozen=True)
class Esps:
    """Path -> digest of every file that must be equal, on the ESP of each disk."""

    first: dict[str, str]
    second: dict[str, str]

    @classmethod
    def of(cls, vm: Vm) -> Esps:
        return cls(_digests(vm, "/boot/efi"), _digests(vm, "/boot/efi2"))


def _digests(vm: Vm, place: str) -> dict[str, str]:
    found = vm.ssh.run(
        f"mountpoint -q {place} && cd {place} &&"
        " find . -type f ! -path ./loader/random-seed -exec sha256sum {} +",
        timeout=180,
    ).stdout
    pairs = (line.split(None, 1) for line in found.splitlines())
    return {path.removeprefix("./"): digest for digest, path in pairs}


@dataclass(frozen=True)
class Lived:
    """A machine that was installed, booted, updated and booted again; then switched off."""

    family: Family
    hardware: Hardware
    first: Facts
    firmware: str
    before: Esps
    kernel: str
    """The version whose package was installed, from the package itself."""
    after: Esps
    second: Facts
    features: str
    """Of /boot, which is ext4, and of /, which is xfs."""
    running: tuple[str, str]
    """What `uname -r` said at the first and at the second start."""


@pytest.fixture(scope="module", params=KNOWN, ids=lambda family: family.name)
def machine(site: Site, request: pytest.FixtureRequest) -> Lived:
    family: Family = request.param
    name = family.name
    hardware = site.lab.hardware(name, Chassis(disks=DISKS))
    manifest = site.offer(packed_sample(name))
    plan = site.plan(hardware, image={"manifest": manifest}, storage={"preset": "plain"})
    install(site, hardware, plan, f"{name}-install")
    package = repository() / "build" / FAMILIES[name][0] / "kernel.deb"
    with site.lab.booted(hardware.machine(f"{name}-first-boot"), until=up) as vm:
        settled(vm)
        first, firmware, before = facts(vm), vm.ssh.run("efibootmgr").stdout, Esps.of(vm)
        came_with, features = release(vm), vm.ssh.run(FEATURES, timeout=120).stdout
        vm.ssh.put(package, "/var/tmp/kernel.deb")
        done = vm.ssh.run("dpkg --install /var/tmp/kernel.deb 2>&1", timeout=UPDATE)
        (repository() / "build/vm" / f"{name}-first-boot" / "dpkg.log").write_text(done.stdout)
        after = Esps.of(vm)
        vm.poweroff()
    with site.lab.booted(hardware.machine(f"{name}-second-boot"), until=up) as vm:
        settled(vm)
        second, running = facts(vm), (came_with, release(vm))
        vm.poweroff()
    asked = ["dpkg-deb", "--field", str(package), "Package"]
    called = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    kernel = called.removeprefix("linux-image-")
    return Lived(
        family, hardware, first, firmware, before, kernel, after, second, features, running
    )


def release(vm: Vm) -> str:
    return vm.ssh.run("uname -r").stdout.strip()


def settled(vm: Vm) -> None:
    vm.ssh.run("until [ -e /var/lib/bedplate/sealed.json ]; do sleep 1; done", timeout=600)
    vm.ssh.run("systemctl is-system-running --wait", timeout=600, check=False)
    # A busy host may have kept the disks waiting until systemd gave the ESPs up.
    vm.ssh.run("systemctl start bedplate-esp-sync.service", timeout=300)


def test_it_comes_up_by_itself_and_nothing_failed(machine: Lived) -> None:
    for boot in (machine.first, machine.second):
        assert boot.said["hostname"].strip() == "db01.example.com"
        assert (boot.state, boot.said["failed"].strip()) == ("running", "")
        assert boot.said["mdstat"].count("[2/2] [UU]") == 2


def test_tang_and_tpm_opened_it_and_it_is_sealed_to_pcr_7(machine: Lived) -> None:
    for boot in (machine.first, machine.second):
        [config] = boot.bindings().values()
        found = dict(pins(config))
        assert config["sss"]["t"] == 2
        assert found["tpm2"]["pcr_ids"] == "7"
        assert "tang" in found


def test_both_esps_have_the_loader_and_the_fallback_and_are_equal(machine: Lived) -> None:
    for esps in (machine.before, machine.after):
        assert esps.first == esps.second
        assert {*machine.family.files, "EFI/BOOT/BOOTX64.EFI"} <= esps.first.keys()


def test_firmware_has_an_entry_for_each_disk(machine: Lived) -> None:
    assert machine.firmware.lower().count(machine.family.loader.lower()) == 2
    for disk in DISKS:
        assert disk.serial in machine.firmware


def test_the_packages_hooks_brought_the_new_kernel_to_both_disks(machine: Lived) -> None:
    """On the ESPs with systemd-boot; with GRUB /boot is a mirror and the ESPs need no change."""
    changed = machine.after.first != machine.before.first
    assert changed == (machine.family.files == SYSTEMD_BOOT)
    named = [path for path in machine.after.second if machine.kernel in path]
    assert len(named) == (3 if changed else 0), named


def test_the_new_kernel_is_the_default_and_unlocks_by_itself(machine: Lived) -> None:
    before, after = machine.running
    assert after == machine.kernel != before


def test_its_file_systems_can_be_read_by_older_systems(machine: Lived) -> None:
    """GRUB before 2.12, e2fsck before 1.47 and Linux before 5.19 do not know these features."""
    assert "has_journal" in machine.features
    assert not {"orphan_file", "metadata_csum_seed"} & set(machine.features.split())
    assert "nrext64=0" in machine.features


def test_it_boots_with_the_first_disk_removed_and_no_boot_entry_left(
    site: Site, machine: Lived
) -> None:
    """The firmware has forgotten everything and starts EFI/BOOT of the second disk."""
    name = f"{machine.family.name}-without-d0"
    half = site.lab.branch(machine.hardware, name)
    forgetful = site.lab.hardware(f"{name}-variables", Chassis(disks=DISKS))
    shutil.copyfile(forgetful.variables, half.variables)
    with site.lab.booted(half.machine(name, without=["d0"]), until=up) as vm:
        told = facts(vm)
        assert told.said["hostname"].strip() == "db01.example.com"
        assert told.said["mdstat"].count("[2/1]") >= 1
        assert release(vm) == machine.kernel
