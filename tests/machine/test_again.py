"""The same plan booted once more: nothing is done, and the local disk is booted."""

from __future__ import annotations

from dataclasses import replace

from qemu.live import LiveImage
from qemu.machine import Drive
from qemu.medium import stick
from qemu.site import Site
from tests.machine.conftest import BOOT, Boots, Installed


def test_a_machine_that_always_boots_the_live_image_is_not_installed_twice(
    site: Site, installed: Installed, booted: Boots
) -> None:
    """Booted from a stick that comes first in the boot order, with the plan on the server still."""
    hardware = site.lab.branch(booted.hardware, "again")
    site.publish(installed.plan)
    medium = stick(site.lab.directory / "live.raw", LiveImage.built().uki)
    extra = f"io.systemd.stub.kernel-cmdline-extra={site.cmdline}"
    machine = hardware.machine("again", strings=(extra,))
    first = Drive("stick", medium, "usb", "BPSTICK", format="raw", bootindex=0)
    machine = replace(machine, drives=(first, *machine.drives))
    with site.lab.booted(machine, until=r"already installed", timeout=BOOT) as vm:
        found = vm.qmp.execute("query-blockstats", {"query-nodes": True})
        writes = {
            each["node-name"]: each["stats"]["wr_operations"]
            for each in found
            if each.get("node-name", "").startswith(("d0", "d1"))
        }
        assert set(writes.values()) == {0}, "the disks are unchanged"
        vm.wait_for(r"db01 login:", BOOT)
    told = site.events(installed.plan)
    assert told[-1]["evidence"]["report"]["state"] == "already installed"
