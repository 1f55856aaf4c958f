"""The plan comes with the medium: a CD, a stick; or with the machine: SMBIOS, fw_cfg.

Each ends where the plan was found, but for one that carries its image and installs from it without
a network.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.payload import gpt
from qemu import disk
from qemu.disk import GiB
from qemu.hardware import Chassis, Disk
from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.program import run
from qemu.site import packed_sample
from tests.boot.media import (
    BOOT,
    REACH_IN,
    STRANGER,
    Seen,
    personal,
    plan,
    seen,
    text,
    with_medium,
)

ONE = Chassis(disks=(Disk("d0", "virtio", 8 * GiB, "BPVIRT0"),), tpm=False)
SOLD = replace(ONE, secure_boot=True, microsoft_keys=True)
"""A machine as it is sold: Secure Boot on, with Microsoft's keys."""
FROM_MEDIUM = "medium BEDPLATE: plan.yaml"
INSTALL = 1800.0


@pytest.fixture(scope="module")
def cd(lab: Lab, rig: LiveImage) -> Seen:
    """An ISO with a plan, as a CD, in a machine with Microsoft's keys; beside a stale medium."""
    found = lab.directory / "plan.yaml"
    found.write_bytes(text(plan(lab)))
    iso = personal(lab, rig.directory / "bedplate.iso", "host.iso", "--plan", found,
                   "--cmdline", REACH_IN)  # fmt: skip
    hardware = lab.hardware("cd", SOLD)
    stale = lab.directory / "stale.yaml"
    stale.write_bytes(text(plan(lab, machine={"serial": "STALE"})))
    old = personal(lab, rig.directory / "bedplate.raw", "stale.raw", "--plan", stale)
    disk.from_raw(hardware.disk("d0"), old)
    with lab.booted(with_medium(hardware, "boot-cd", iso, "cdrom"), until="login|NOT") as vm:
        return seen(vm)


def test_a_cd_brings_its_plan_and_stays_mounted_read_only(cd: Seen) -> None:
    assert cd.plan_from == FROM_MEDIUM
    assert "/dev/sr0 iso9660 ro," in cd.mounts


def test_firmware_as_sold_starts_the_cd_with_secure_boot_on(cd: Seen) -> None:
    assert "Secure boot enabled" in cd.kernel_log


def test_options_given_to_one_cd_reach_its_kernel(cd: Seen) -> None:
    assert REACH_IN in cd.cmdline


@pytest.mark.parametrize("form", ["iso", "raw"])
def test_on_a_usb_disk_the_plan_is_found(lab: Lab, full: LiveImage, form: str) -> None:
    found = lab.directory / "plan.yaml"
    found.write_bytes(text(plan(lab)))
    given: list[str | Path] = ["--cmdline", REACH_IN]
    given += ["--plan", found] if form == "iso" else []
    medium = personal(lab, full.directory / f"bedplate.{form}", f"usb.{form}", *given)
    if form == "raw":  # as an operator does it, on the stick
        with medium.open("rb") as stream:
            at = gpt.parse(stream.read(gpt.HEAD)).partitions[1].start
        run("mcopy", "-i", f"{medium}@@{at}", found, "::plan.yaml")
    hardware = lab.hardware(f"usb-{form}", SOLD)
    machine = with_medium(hardware, f"boot-usb-{form}", medium, "usb")
    with lab.booted(machine, until="login|NOT") as vm:
        said = seen(vm)
    assert said.plan_from == FROM_MEDIUM
    assert "Secure boot enabled" in said.kernel_log
    assert f"/dev/sda{'2 vfat' if form == 'raw' else ''}" in said.mounts


@pytest.mark.parametrize("way", ["SMBIOS", "fw_cfg"])
def test_a_credential_brings_the_plan(lab: Lab, rig: LiveImage, way: str) -> None:
    found = lab.directory / "credential.yaml"
    found.write_bytes(text(plan(lab)))
    given = (("bedplate.plan", found.read_bytes()),) if way == "SMBIOS" else ()
    machine = lab.live(lab.hardware(way, ONE), f"boot-{way}", credentials=given, image=rig)
    if way == "fw_cfg":
        option = f"name=opt/io.systemd.credentials/bedplate.plan,file={found}"
        machine = replace(machine, options=("-fw_cfg", option))
    with lab.booted(machine, until="login|NOT") as vm:
        assert seen(vm).plan_from == "credential bedplate.plan"


def test_a_stick_with_an_image_installs_where_there_is_no_network(
    lab: Lab, full: LiveImage
) -> None:
    packed = packed_sample()
    hardware = lab.hardware("airgap", ONE)
    order = plan(
        lab,
        machine={"serial": hardware.chassis.identity.serial},
        image={"manifest": f"file:///run/bedplate/media/images/{packed.manifest.name}"},
    )
    found = lab.directory / "airgap.yaml"
    found.write_bytes(text(order))
    stick = personal(lab, full.directory / "bedplate.raw", "airgap.raw", "--plan", found,
                     "--image", packed.manifest, "--cmdline", REACH_IN)  # fmt: skip
    machine = with_medium(hardware, "boot-airgap", stick, "usb")
    with lab.booted(replace(machine, nics=()), until="login|INSTALL") as vm:
        vm.wait_for(r"(?<!NOT )INSTALLED: ", INSTALL, unless="NOT INSTALLED")
        vm.wait_exit(300)
    with lab.booted(hardware.machine("airgap-first"), until="login:", timeout=BOOT):
        pass
    assert STRANGER not in found.read_text()
