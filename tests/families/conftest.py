"""Targets of other families: slow, because packages and initrds are made under emulation.

`make families` builds their images and runs them; `make test` does not. Each stage of a machine's
life is a fixture that begins where the one before it ended, so that what fails is named by its
stage: `installed`, `booted`, and for some `updated`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from qemu.facts import Facts, facts
from qemu.hardware import Chassis, Hardware
from qemu.lab import Lab
from qemu.program import repository
from qemu.site import Site, packed_sample
from qemu.vm import Vm
from tests.families.families import KNOWN, UPDATED, Family
from tests.machine.conftest import DISKS, install, up

SEAL = 900.0
"""Seconds until a machine has sealed itself: half a minute on a quiet host."""
UPDATE = 3600.0
"""Seconds for a kernel's package and the initrd it builds: five minutes on a quiet host."""
FEATURES = "dumpe2fs -h $(findmnt -no SOURCE /boot) 2>/dev/null | grep features; xfs_info /"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for `family`, itself or through a stage, once for each family."""
    if "family" in metafunc.fixturenames:
        chosen = UPDATED if "updated" in metafunc.fixturenames else KNOWN
        metafunc.parametrize("family", chosen, ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A lab of its own: `make test` may run meanwhile, and begins by emptying its own."""
    with Lab.fresh(repository() / "build/lab/families") as lab:
        yield Site(lab)


@pytest.fixture(scope="session")
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


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
class Start:
    """What a machine said after it had started by itself; `tang` is how often it asked Tang."""

    facts: Facts
    esps: Esps
    kernel: str
    tang: int


@dataclass(frozen=True)
class Installed:
    hardware: Hardware
    evidence: dict[str, dict[str, Any]]
    """Of each step of the installation, by its name."""


@dataclass(frozen=True)
class Booted:
    """Switched off after its first start; `hardware` is to be branched and not to be started."""

    hardware: Hardware
    start: Start
    system: str
    """PRETTY_NAME."""
    firmware: str
    features: str
    """Of /boot, which is ext4, and of /, which is xfs."""


@dataclass(frozen=True)
class Updated:
    package: str
    """The version of the kernel whose package was installed, from the package itself."""
    esps: Esps
    """As the package's hooks left them."""
    start: Start


@pytest.fixture(scope="session")
def installed(site: Site, family: Family) -> Installed:
    hardware = site.lab.hardware(str(family), Chassis(disks=DISKS))
    manifest = site.offer(packed_sample(family.image))
    plan = site.plan(hardware, image={"manifest": manifest}, storage={"preset": "plain"})
    install(site, hardware, plan, f"{family}-install")
    finished = (event for event in site.events(plan) if event["state"] == "finished")
    return Installed(hardware, {event["step"]: event["evidence"] for event in finished})


@pytest.fixture(scope="session")
def booted(site: Site, family: Family, installed: Installed) -> Booted:
    before = site.tang.recoveries()
    machine = installed.hardware.machine(f"{family}-first-boot")
    with site.lab.booted(machine, until=up) as vm:
        asked = site.tang.recoveries() - before
        start = settled(vm, asked)
        found = Booted(
            installed.hardware,
            start,
            vm.ssh.run(". /etc/os-release && echo $PRETTY_NAME").stdout.strip(),
            vm.ssh.run("efibootmgr --verbose").stdout,
            vm.ssh.run(FEATURES, timeout=120).stdout,
        )
        vm.poweroff()
    return found


@pytest.fixture(scope="session")
def updated(site: Site, family: Family, booted: Booted) -> Updated:
    hardware = site.lab.branch(booted.hardware, f"{family}-updated")
    with site.lab.booted(hardware.machine(f"{family}-update"), until=up) as vm:
        # What a busy host kept waiting at this start is mounted before a kernel is written to it.
        vm.ssh.run("systemctl start bedplate-esp-sync.service", timeout=300)
        vm.ssh.put(family.kernel, "/var/tmp/kernel.deb")
        done = vm.ssh.run("dpkg --install /var/tmp/kernel.deb 2>&1", timeout=UPDATE)
        (repository() / "build/vm" / f"{family}-update" / "dpkg.log").write_text(done.stdout)
        esps = Esps.of(vm)
        vm.poweroff()
    before = site.tang.recoveries()
    with site.lab.booted(hardware.machine(f"{family}-updated"), until=up) as vm:
        start = settled(vm, site.tang.recoveries() - before)
        vm.poweroff()
    asked = ["dpkg-deb", "--field", str(family.kernel), "Package"]
    called = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    return Updated(called.removeprefix("linux-image-"), esps, start)


def settled(vm: Vm, tang: int) -> Start:
    """Wait until a machine has done all it does after a start; return what it says then."""
    vm.ssh.run("until [ -e /var/lib/bedplate/sealed.json ]; do sleep 1; done", timeout=SEAL)
    vm.ssh.run("systemctl is-system-running --wait", timeout=SEAL, check=False)
    # A busy host may have kept the disks waiting until systemd gave the ESPs up.
    vm.ssh.run("systemctl start bedplate-esp-sync.service", timeout=300)
    # What a test that fails does not say: beside the console.
    told = vm.ssh.run("systemctl list-units --all --plain; journalctl -b -p warning", timeout=300)
    (repository() / "build/vm" / vm.machine.name / "units.txt").write_text(told.stdout)
    return Start(facts(vm), Esps.of(vm), kernel_of(vm), tang)


def kernel_of(vm: Vm) -> str:
    return vm.ssh.run("uname -r").stdout.strip()
