"""An image of a whole disk onto a disk, and booted: the firmware finds what the image brought.

The image is a disk with nothing but an EFI system partition, and in it the live image as its own
loader: it needs no root to make, and says on the console that it was started.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from qemu.disk import GiB, MiB
from qemu.hardware import Chassis, Disk, Hardware
from qemu.site import Site
from tests.machine import appliance
from tests.machine.conftest import BOOT, install


@pytest.fixture(scope="module")
def hardware(site: Site) -> Hardware:
    disk = Disk("d0", "virtio", size=2 * GiB, serial="BPWHOLE0")
    return site.lab.hardware("whole", Chassis(disks=(disk,), tpm=False))


@pytest.fixture(scope="module")
def report(site: Site, hardware: Hardware) -> Iterator[dict[str, Any]]:
    """Install; return the report."""
    with appliance.offered(site, appliance.live, hardware, "appliance") as plan:
        plan["image"]["verify"] = "full"
        install(site, hardware, plan, "whole-install")
        yield site.report(plan, site.last_run(plan))["report"]


def test_every_byte_was_read_back_from_the_disk(report: dict[str, Any]) -> None:
    flashed = report["proofs"]["flash-image"]
    assert flashed["read_back"]["how"] == "full"
    assert flashed["read_back"]["bytes"] > 100 * MiB
    assert flashed["past_the_page_cache"] is True
    assert flashed["backup_table_at"] == 2 * GiB - 33 * 512
    assert report["proofs"]["enter-image"]["esp"] == appliance.ESP


def test_the_firmware_starts_what_the_image_brought(
    site: Site, hardware: Hardware, report: dict[str, Any]
) -> None:
    """By the entry that was made for it; the loader is the live image, which finds no plan now."""
    entry = report["proofs"]["enter-image"]["boot_entry"]
    machine = hardware.machine("whole-boot")
    with site.lab.booted(machine, until=r"none found", timeout=BOOT) as vm:
        assert re.search(rf'BdsDxe: starting Boot\w{{4}} "{re.escape(entry)}"', vm.console.text)
        vm.quit()
