"""The machine comes back with either disk missing."""

from __future__ import annotations

import pytest

from qemu.facts import facts
from qemu.site import Site
from tests.machine.conftest import BOOT, Boots

# Of a RAID10 two neighbours hold the same: without one of them nothing is lost, without both all.
BAYS = {"d0": ["b0"], "d1": ["b2", "b3"]}


@pytest.mark.parametrize("pulled", ["d0", "d1"])
def test_it_boots_by_itself_with_one_disk_removed(site: Site, booted: Boots, pulled: str) -> None:
    half = site.lab.branch(booted.hardware, f"without-{pulled}")
    machine = half.machine(f"without-{pulled}", without=[pulled, *BAYS[pulled]])
    with site.lab.booted(machine, until=lambda vm: vm.wait_for(r"login:", BOOT)) as vm:
        # /boot follows: mdadm-last-resort@.timer gives its other leg half a minute to appear. So
        # does what is left of data; where nothing is, systemd looks for it for minutes.
        places = ["/boot", "/var/lib/pgsql"] if pulled == "d0" else ["/boot"]
        for place in (*places, "--raw /boot/efi || findmnt --raw /boot/efi2"):
            vm.ssh.run(f"until findmnt {place}; do sleep 2; done", timeout=BOOT)
        told = facts(vm)
        assert told.said["hostname"].strip() == "db01.example.com"
        assert told.said["mdstat"].count("[2/1]") == 2
        assert told.mounts()["/boot"]["fstype"] == "ext4"
        assert "/var/log/audit" in told.mounts()
        esps = [mount for mount in told.mounts() if mount.startswith("/boot/efi")]
        assert esps, "kernel updates still have an ESP to write to"
        # Disks of data follow as well, as far as anything is left of them.
        assert ("/var/lib/pgsql" in told.mounts()) is (pulled == "d0")
        assert ("[4/3]" in told.said["mdstat"]) is (pulled == "d0")
