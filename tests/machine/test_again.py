"""The same plan booted once more: nothing is done, and the local disk is booted next."""

from __future__ import annotations

import re

import yaml

from qemu.facts import facts
from qemu.site import Site
from tests.machine.conftest import Boots, Installed, up


def test_the_same_plan_is_not_carried_out_twice(
    site: Site, installed: Installed, booted: Boots
) -> None:
    """Booted into the live image again, the machine keeps its disks and names them in BootNext.

    The emulated firmware has no network boot that comes before the disks and yet leaves BootNext
    alone (its bootindex removes other entries), so the reboot itself is held, looked at, and made
    as a power-on without the live image.
    """
    hardware = site.lab.branch(booted.hardware, "again")
    live = site.lab.live(hardware, "again")
    with site.lab.booted(live, until=lambda vm: vm.ssh.wait(300)) as vm:
        vm.ssh.run("systemctl mask --runtime reboot.target systemd-reboot.service")
        vm.ssh.write("/run/plan.yaml", yaml.safe_dump(installed.plan).encode())
        done = vm.ssh.run("bedplate install /run/plan.yaml", 300, check=False)
        assert "ALREADY INSTALLED" in done.stderr
        boot = vm.ssh.run("efibootmgr").stdout
        vm.poweroff()
    assert not any(hardware.written().values()), "the disks are unchanged"
    chosen = re.search(r"BootNext: (\w{4})", boot)
    assert chosen is not None, boot
    assert re.search(rf"Boot{chosen[1]}\* Debian.*disk 1", boot), boot
    with site.lab.booted(hardware.machine("again-boot"), until=up) as vm:
        assert facts(vm).said["hostname"].strip() == "db01.example.com"
    told = [event for event in site.events(installed.plan) if event["step"] == "install"][-1]
    assert told["evidence"]["report"]["state"] == "already installed"
