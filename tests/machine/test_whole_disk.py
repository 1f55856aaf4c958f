"""An image of a whole disk onto a disk, and booted: the firmware finds what the image brought.

The image is a disk with nothing but an EFI system partition, and in it the live image as its own
loader: it needs no root to make, and says on the console that it was started.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qemu.disk import GiB, MiB
from qemu.hardware import Chassis, Disk, Hardware
from qemu.live import LiveImage
from qemu.program import run
from qemu.site import KEY, Site
from tests.machine.conftest import BOOT, INSTALL

SERIAL = "BPWHOLE0"
ESP = "aaaaaaaa-0000-4000-8000-000000000001"


def appliance(path: Path) -> None:
    """Write a disk whose ESP starts the live image, and holes that must become zeros."""
    loader = LiveImage.built().uki
    esp = (loader.stat().st_size // MiB + 40) * MiB
    with path.open("wb") as file:
        file.truncate(esp + 66 * MiB)
    table = f"label: gpt\nstart=1MiB, size={esp // 512}, type=uefi, uuid={ESP}\n"
    argv = ["sfdisk", "--quiet", "--no-reread", str(path)]
    subprocess.run(argv, input=table.encode(), check=True, capture_output=True)
    place = f"{path}@@1M"
    run("mformat", "-i", place, "-F", "-T", str(esp // 512), "::")
    run("mmd", "-i", place, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", place, loader, "::/EFI/BOOT/BOOTX64.EFI")


@pytest.fixture(scope="module")
def hardware(site: Site) -> Hardware:
    disk = Disk("d0", "virtio", size=2 * GiB, serial=SERIAL)
    return site.lab.hardware("whole", Chassis(disks=(disk,), tpm=False))


@pytest.fixture(scope="module")
def plan(
    site: Site, hardware: Hardware, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("appliance")
    raw = directory / "appliance.raw"
    appliance(raw)
    packed = site.server.directory / "images"
    run(
        sys.executable, "-m", "agent", "pack", raw, "--name", "appliance", "--key", KEY,
        "--level", "1", "--directory", packed, timeout=600,
    )  # fmt: skip
    yield site.plan(
        hardware,
        disks={"count": 1, "where": {"serial": [SERIAL]}},
        storage={"preset": "whole-disk"},
        encryption=None,
        configure=None,
        image={"manifest": f"{site.server.url}/images/appliance.json", "verify": "full"},
    )
    for made in packed.glob("appliance*"):
        made.unlink()


@pytest.fixture(scope="module")
def report(site: Site, hardware: Hardware, plan: dict[str, Any]) -> dict[str, Any]:
    """Install; return the report."""
    site.publish({key: value for key, value in plan.items() if value is not None})
    machine = site.lab.live(hardware, "whole-install", site.cmdline)
    with site.lab.booted(machine) as vm:
        vm.wait_for(r"(?<!NOT )INSTALLED: ", INSTALL, unless=r"NOT INSTALLED")
        vm.wait_exit(300)
    found: dict[str, Any] = site.report(plan, site.last_run(plan))["report"]
    return found


def test_every_byte_was_read_back_from_the_disk(report: dict[str, Any]) -> None:
    flashed = report["proofs"]["flash-image"]
    assert flashed["read_back"]["how"] == "full"
    assert flashed["read_back"]["bytes"] > 100 * MiB
    assert flashed["past_the_page_cache"] is True
    assert flashed["backup_table_at"] == 2 * GiB - 33 * 512
    assert report["proofs"]["enter-image"]["esp"] == ESP


def test_the_firmware_starts_what_the_image_brought(
    site: Site, hardware: Hardware, report: dict[str, Any]
) -> None:
    """By the entry that was made for it; the loader is the live image, which finds no plan now."""
    entry = report["proofs"]["enter-image"]["boot_entry"]
    machine = hardware.machine("whole-boot")
    with site.lab.booted(machine, until=r"none found", timeout=BOOT) as vm:
        assert re.search(rf'BdsDxe: starting Boot\w{{4}} "{re.escape(entry)}"', vm.console.text)
        vm.quit()


def test_the_same_plan_again_does_nothing(
    site: Site, hardware: Hardware, plan: dict[str, Any], report: dict[str, Any]
) -> None:
    del report
    copy = site.lab.branch(hardware, "whole-again")
    with site.lab.booted(site.lab.live(copy, "whole-again", site.cmdline)) as vm:
        vm.wait_for("ALREADY INSTALLED", INSTALL, unless=r"NOT INSTALLED")
        vm.wait_exit(300)
    assert not any(copy.written().values()), "the disk is unchanged"
    last = site.report(plan, site.last_run(plan))["report"]
    assert last["state"] == "already installed"
