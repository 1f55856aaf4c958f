"""How little memory is enough: what the agent accepts installs, and what it refuses is told why."""

from __future__ import annotations

from dataclasses import replace

from agent.checks.machine import LEAST_MEMORY
from qemu.disk import MiB
from qemu.hardware import Chassis
from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.site import Site
from tests.boot.media import BOOT, FOUND, REACH_IN, personal, plan, text, with_medium
from tests.machine.conftest import DISKS

SMALLEST = 896 * MiB
"""Built in; the firmware and the kernel keep some of it, and the agent sees the rest."""
TOO_SMALL = 832 * MiB
INSTALL = 1800.0


def test_the_smallest_machine_installs_the_main_job(lab: Lab, full: LiveImage) -> None:
    """Two mirrored, encrypted disks, STIG's layout, Tang and TPM; from a CD, with all drivers."""
    site = Site(lab)
    hardware = lab.hardware("small", Chassis(disks=DISKS, memory=SMALLEST))
    site.publish(site.plan(hardware))
    iso = personal(lab, full.directory / "bedplate.iso", "small.iso",
                   "--cmdline", f"{REACH_IN} {site.cmdline}")  # fmt: skip
    machine = with_medium(hardware, "small", iso, "cdrom")
    with lab.booted(machine, until=lambda vm: vm.shell.wait(BOOT)) as vm:
        (_, kilobytes, _) = vm.shell.run("grep MemTotal: /proc/meminfo").text.split()
        assert int(kilobytes) * 1024 >= LEAST_MEMORY
        vm.wait_for(r"(?<!NOT )INSTALLED: ", INSTALL, unless="NOT INSTALLED")
        vm.wait_exit(300)


def test_less_is_refused_with_both_sizes(lab: Lab, rig: LiveImage) -> None:
    """The image with fewer drivers, because it still starts there."""
    hardware = lab.hardware("smaller", replace(Chassis(), memory=TOO_SMALL, tpm=False))
    order = plan(lab, machine={"serial": hardware.chassis.identity.serial})
    given = (("bedplate.plan", text(order)),)
    with lab.booted(
        lab.live(hardware, "smaller", credentials=given, image=rig), until=FOUND, timeout=BOOT
    ) as vm:
        least = LEAST_MEMORY // MiB
        vm.wait_for(rf"has \d+ MiB of memory, an installation needs {least} MiB", 30)
        assert "NOT INSTALLED" in vm.console.text
