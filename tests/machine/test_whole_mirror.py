"""An appliance's image onto a mirror of two whole disks: either of them starts it.

The image is a Debian whose initrd assembles arrays; what one does that cannot is written in
docs/image-format.md and not tried here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from qemu import disk
from qemu.disk import GiB, MiB
from qemu.hardware import Chassis, Disk, Hardware
from qemu.program import find
from qemu.site import Site
from qemu.vm import Vm
from tests.machine import appliance
from tests.machine.conftest import install, up

DISKS = (
    Disk("m0", "virtio", size=2 * GiB, serial="BPMIRR0"),
    Disk("m1", "nvme", size=2 * GiB, serial="BPMIRR1"),
)
SIZE = 482 * MiB
"""Of the image, its first and last MiB are proven when they are written."""
ASK = """
findmnt --noheadings --output SOURCE /
cat /proc/mdstat
mdadm --detail /dev/md/bedplate-image
lsblk --noheadings --raw --output NAME,TYPE
systemctl is-system-running --wait
"""


@dataclass(frozen=True)
class Mirrored:
    """A machine with the appliance on its mirror, the plan of it, and the report."""

    hardware: Hardware
    plan: dict[str, Any]
    report: dict[str, Any]
    variables: bytes
    """The firmware's, as the installation left them."""


@pytest.fixture(scope="module")
def mirrored(site: Site) -> Iterator[Mirrored]:
    hardware = site.lab.hardware("mirrored", Chassis(disks=DISKS, tpm=False))
    write, changes = appliance.debian, {"finish": "reboot"}
    with appliance.offered(site, write, hardware, "appliance-md", **changes) as plan:
        plan["image"]["verify"] = "full"
        install(site, hardware, plan, "mirror-install")
        report = site.report(plan, site.last_run(plan))["report"]
        variables = disk.read_at(hardware.variables, 0, disk.size(hardware.variables))
        yield Mirrored(hardware, plan, report, variables)


def asked(vm: Vm) -> str:
    return vm.ssh.run(ASK, 300, check=False).stdout


def test_the_array_lies_over_the_whole_disks_with_its_metadata_at_their_ends(
    mirrored: Mirrored,
) -> None:
    proofs = mirrored.report["proofs"]
    (array,) = proofs["mirror-disks"]["arrays"]
    assert (array["level"], array["metadata"]) == ("raid1", "1.0")
    assert array["must_resync"] is False, "blank disks are equal from the start"
    assert sorted(array["members"]) == ["/dev/nvme0n1", "/dev/vda"]
    assert proofs["flash-image"]["device"] == "/dev/md/bedplate-image"
    read = proofs["flash-image"]["read_back"]
    assert (read["how"], read["bytes"]) == ("full", 2 * (SIZE - 2 * MiB)), "each disk was read"
    assert "BootNext".encode("utf-16-le") in mirrored.variables, "it never was there before"
    (closed,) = proofs["close-target"]["mirrors"]
    assert (closed["members"], closed["active"]) == (2, 2)


def test_the_appliance_starts_from_the_mirror_and_both_disks_hold_the_same(
    site: Site, mirrored: Mirrored
) -> None:
    machine = mirrored.hardware.machine("mirror-boot", credentials=[site.lab.login])
    with site.lab.booted(machine, until=up) as vm:
        entry = mirrored.report["proofs"]["enter-image"]["boot_entry"]
        assert re.search(rf'BdsDxe: starting Boot\w{{4}} "{re.escape(entry)}"', vm.console.text)
        said = asked(vm)
        vm.poweroff()
    assert re.match(r"/dev/md\d+p2\n", said), said
    assert "super 1.0 [2/2] [UU]" in said
    assert re.search(r"Version : 1\.0", said)
    assert re.search(r"State : (clean|active) *\n", said)
    assert not re.search(r"^(vda|nvme0n1p)\d+ part", said, re.MULTILINE), "nothing mounts a leg"
    assert said.endswith("running\n"), said
    assert first_difference(mirrored.hardware) >= array_size(said)


def array_size(said: str) -> int:
    """Return the bytes of the array, by `mdadm --detail`."""
    found = re.search(r"Array Size : (\d+) ", said)
    assert found is not None, said
    return int(found[1]) * 1024


def first_difference(hardware: Hardware) -> int:
    """Return where the two disks differ first: their superblocks name them, so they do."""
    disks = [hardware.disk(each.name) for each in DISKS]
    argv = [find("qemu-img"), "compare", "-f", "qcow2", "-F", "qcow2", *map(str, disks)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    found = re.search(r"Content mismatch at offset (\d+)", done.stdout)
    assert found is not None, (done.stdout, done.stderr)
    return int(found[1])


def test_without_the_first_disk_the_other_starts_it(site: Site, mirrored: Mirrored) -> None:
    half = site.lab.branch(mirrored.hardware, "mirror-half")
    machine = half.machine("mirror-half", without=["m0"], credentials=[site.lab.login])
    with site.lab.booted(machine, until=up) as vm:
        said = asked(vm)
        vm.poweroff()
    assert re.match(r"/dev/md\d+p2\n", said), said
    assert re.search(r"\[2/1\] \[(_U|U_)\]", said), said
    assert said.endswith("running\n"), said


def test_the_same_plan_again_does_nothing_and_the_disks_are_booted_next(
    site: Site, mirrored: Mirrored
) -> None:
    """The marker lies in the array and is read from a leg. The reboot itself is held."""
    copy = site.lab.branch(mirrored.hardware, "mirror-again")
    live = site.lab.live(copy, "mirror-again")
    with site.lab.booted(live, until=lambda vm: vm.ssh.wait(300)) as vm:
        vm.ssh.run("systemctl mask --runtime reboot.target systemd-reboot.service")
        vm.ssh.write("/run/plan.yaml", yaml.safe_dump(mirrored.plan).encode())
        done = vm.ssh.run("bedplate install /run/plan.yaml", 300, check=False)
        assert "ALREADY INSTALLED" in done.stderr
        boot = vm.ssh.run("efibootmgr").stdout
        legs = vm.ssh.run("mdadm --examine /dev/vda /dev/nvme0n1").stdout
        vm.poweroff()
    assert not any(copy.written().values()), "the disks are unchanged"
    chosen = re.search(r"BootNext: (\w{4})", boot)
    assert chosen is not None, boot
    entry = mirrored.report["proofs"]["enter-image"]["boot_entry"]
    assert f"Boot{chosen[1]}* {entry}" in boot
    assert len(set(re.findall(r"Events : (\d+)", legs))) == 1, legs
    assert legs.count("Array State : AA") == 2, legs
