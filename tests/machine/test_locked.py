"""What must not open, does not; and the recovery key always does."""

from __future__ import annotations

import pytest

from qemu.errors import WaitTimeoutError
from qemu.site import Site
from tests.machine.conftest import BOOT, Boots, Installed

PROMPT = r"Please enter passphrase for disk"
WATCHED = 60.0
"""Seconds a locked machine is watched; Clevis tries again about every 25."""


def test_without_tang_it_stays_locked_and_the_escrowed_key_opens_it(
    site: Site, booted: Boots, installed: Installed
) -> None:
    key = site.escrow.open(site.envelope(installed.plan))["key"]
    machine = site.lab.branch(booted.hardware, "no-tang").machine("no-tang")
    site.tang.stop()
    try:
        with site.lab.booted(machine, until=PROMPT) as vm:
            with pytest.raises(WaitTimeoutError):
                vm.wait_for(r"login:|Mounted sysroot", WATCHED)
            vm.type(f"{key}\n")
            vm.wait_for(r"login:", BOOT)
            assert key not in vm.console.text
    finally:
        site.tang.start()


def test_another_tpm_does_not_open_it(site: Site, booted: Boots) -> None:
    moved = site.lab.branch(booted.hardware, "other-tpm", new_tpm=True)
    with site.lab.booted(moved.machine("other-tpm"), until=PROMPT) as vm:
        with pytest.raises(WaitTimeoutError):
            vm.wait_for(r"login:|Mounted sysroot", WATCHED)
        vm.quit()
