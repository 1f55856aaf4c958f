"""Secure Boot with Microsoft's keys, from the first start to the last, and the seal that needs it.

Shim is signed by Microsoft, GRUB and the kernel by the distribution: on the medium, and in what is
installed from it.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from qemu import firmware
from qemu.errors import WaitTimeoutError
from qemu.facts import LUKS, pins
from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.site import Site, packed_sample
from tests.boot.media import BOOT, REACH_IN, personal, with_medium
from tests.boot.secure import FRESH, Sealed, Trust, installed, started

SOLD = replace(FRESH, microsoft_keys=True)
WATCHED = 60.0
"""Seconds a locked machine is watched; Clevis tries again every few."""


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    return Site(lab)


@pytest.fixture(scope="module")
def sold(lab: Lab, rig: LiveImage, site: Site) -> Sealed:
    """The ISO as a CD installs an image with shim, signed GRUB and signed kernel."""
    hardware = lab.hardware("sold", SOLD)
    manifest = site.offer(packed_sample("grub"))
    order = site.plan(hardware, image={"manifest": manifest}, storage={"preset": "plain"})
    site.publish(order)
    options = f"{REACH_IN} {site.cmdline}"
    iso = personal(lab, rig.directory / "bedplate.iso", "sold.iso", "--cmdline", options)
    live = installed(
        site, with_medium(hardware, "sold-install", iso, "cdrom", credentials=(lab.login,))
    )
    first = started(site, hardware, "sold-first-boot", seals=True)
    second = started(site, hardware, "sold-second-boot", seals=False)
    return Sealed(hardware, order, live, first, second)


def test_shim_and_signed_grub_start_what_was_installed_with_secure_boot_on(sold: Sealed) -> None:
    for trust in (sold.live, sold.first.trust, sold.second.trust):
        assert trust.secure_boot
        assert "Secure boot enabled" in trust.kernel
        assert "[integrity]" in trust.lockdown
    assert sold.second.facts.said["hostname"].strip() == "db01.example.com"
    assert (sold.second.facts.state, sold.second.facts.said["failed"].strip()) == ("running", "")


def test_the_seal_to_pcr_7_opens_at_the_second_start(sold: Sealed) -> None:
    leaves = dict(pins(sold.config))
    assert (sold.config["sss"]["t"], set(leaves)) == (2, {"tang", "tpm2"})
    assert (leaves["tpm2"]["pcr_ids"], leaves["tpm2"]["pcr_bank"]) == ("7", "sha256")
    assert sold.second.facts.bindings().keys() == sold.first.facts.bindings().keys() == {3}
    assert sold.second.asked >= 1
    assert sold.second.trust.pcr7 == sold.first.trust.pcr7


def test_shim_gives_the_live_system_and_the_installed_one_the_same_pcr_7(sold: Sealed) -> None:
    """Both were verified by the same certificates: Microsoft's, and Debian's inside shim."""
    assert sold.live.pcr7 == sold.first.trust.pcr7


def test_with_secure_boot_off_the_seal_does_not_open_and_the_recovery_key_does(
    lab: Lab, site: Site, sold: Sealed
) -> None:
    key = site.escrow.open(site.envelope(sold.plan))["key"]
    off = lab.branch(sold.hardware, "off")
    # The variables of a machine without any key: the firmware verifies nothing.
    firmware.find(secure_boot=True).new_variables(off.variables)
    before = site.tang.recoveries()
    with lab.booted(off.machine("off"), until="Please unlock disk", timeout=BOOT) as vm:
        deadline = time.monotonic() + BOOT
        while site.tang.recoveries() == before:  # the network is up, and Clevis has tried
            vm.check()
            assert time.monotonic() < deadline, vm.console.tail()
            time.sleep(1)
        with pytest.raises(WaitTimeoutError):
            vm.wait_for("set up successfully|login:", WATCHED)
        vm.type(f"{key}\n")
        vm.wait_for("login:", BOOT)
        assert key not in vm.console.text
        now = Trust.said(lambda line: vm.ssh.run(line).stdout)
        assert not now.secure_boot
        assert now.pcr7 != sold.second.trust.pcr7
        tried = vm.ssh.run(f"clevis luks pass -d {LUKS} -s 3", timeout=120, check=False)
        assert tried.status != 0
        assert re.search(r"(?i)policy|unseal", tried.stderr), tried.stderr
