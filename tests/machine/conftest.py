"""One installation, and copies of it.

`installed` is made once for the session: the base of copy-on-write branches for every test that
starts from an installed machine. Consoles of all machines stay in build/vm/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from qemu.disk import GiB
from qemu.facts import Facts, facts
from qemu.hardware import PAIR, Chassis, Disk, Hardware
from qemu.lab import Lab
from qemu.program import repository
from qemu.site import IMAGE, Site
from qemu.vm import Vm
from tests.adapters.crooked import Crooked, Cut, Fault, Request

INSTALL = 1800.0
"""Seconds an installation may take under emulation on a busy host; five minutes is usual."""
BOOT = 900.0
DISKS = tuple(replace(disk, size=32 * GiB) for disk in PAIR)
"""Sparse; large enough for the STIG preset as it is."""
BAYS = tuple(Disk(f"b{number}", "scsi", 3 * GiB, f"BPBAY{number}") for number in range(4))
"""Four small disks for data. On a bus of their own, so that plans tell them from the others."""
DATA = {
    "name": "pgdata",
    "level": "raid10",
    "count": 4,
    "where": {"serial": [disk.serial for disk in BAYS]},
    "volumes": [{"mount": "/var/lib/pgsql", "grow": True, "options": ["nodev", "nosuid"]}],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.machine)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    # A second session at the same time needs a lab of its own: a fresh one deletes what was there.
    with Lab.fresh(repository() / "build/lab" / os.environ.get("BEDPLATE_LAB", "tests")) as lab:
        yield Site(lab)


class CutThrice:
    """Cuts the connection in the middle of the payload, three times; honest otherwise."""

    def __init__(self) -> None:
        self.cuts = 0

    def __call__(self, request: Request) -> Fault | None:
        if not request.path.endswith(".zst") or self.cuts == 3 or request.number % 5:
            return None
        self.cuts += 1
        return Cut(100_000)


@dataclass(frozen=True)
class Installed:
    """A machine that was installed, by which plan, and in which run of it."""

    hardware: Hardware
    plan: dict[str, Any]
    run: str
    cuts: int


def install(site: Site, hardware: Hardware, plan: dict[str, Any], name: str) -> str:
    """Boot the live image with a plan, wait until it has switched the machine off.

    Returns the text of the console.
    """
    site.publish(plan)
    machine = site.lab.live(hardware, name, site.cmdline)
    with site.lab.booted(machine) as vm:
        vm.wait_for(r"(?<!NOT )INSTALLED: ", INSTALL, unless=r"NOT INSTALLED")
        vm.wait_exit(300)
        return vm.console.text


@pytest.fixture(scope="session")
def installed(site: Site) -> Installed:
    """Blank disks become a machine, from a server that cuts the connection three times."""
    script = CutThrice()
    files = {path.name: path.read_bytes() for path in site.packed.directory.iterdir()}
    with Crooked(files, script) as server:
        hardware = site.lab.hardware("base", Chassis(disks=(*DISKS, *BAYS)))
        manifest = f"http://10.0.2.2:{server.port}/{IMAGE}.json"
        storage = {"preset": "stig-rhel9", "data": [DATA]}
        plan = site.plan(hardware, image={"manifest": manifest}, storage=storage)
        install(site, hardware, plan, "install")
    return Installed(hardware, plan, site.last_run(plan), script.cuts)


@dataclass(frozen=True)
class Boots:
    """What the installed machine said at its first and second start; then it was switched off."""

    hardware: Hardware
    first: Facts
    second: Facts
    asked_tang: int
    """How often Tang was asked for a share at the second start, before anybody logged in."""


def up(vm: Vm) -> None:
    """Wait for the login prompt: nothing was typed, so the disks opened by themselves."""
    vm.wait_for(r"login:", BOOT)


@pytest.fixture(scope="session")
def booted(site: Site, installed: Installed) -> Boots:
    """Start the installed machine twice, from its own disks."""
    lab, hardware = site.lab, installed.hardware
    with lab.booted(hardware.machine("first-boot"), until=up) as vm:
        vm.ssh.run("until [ -e /var/lib/bedplate/sealed.json ]; do sleep 1; done", timeout=BOOT)
        vm.ssh.run("systemctl is-system-running --wait", timeout=BOOT, check=False)
        first = facts(vm)
        vm.poweroff()
    before = site.tang.recoveries()
    with lab.booted(hardware.machine("second-boot"), until=up) as vm:
        asked = site.tang.recoveries() - before
        vm.ssh.run("systemctl is-system-running --wait", timeout=BOOT, check=False)
        second = facts(vm)
        vm.poweroff()
    return Boots(hardware, first, second, asked)
