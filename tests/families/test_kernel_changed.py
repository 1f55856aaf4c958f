"""Another kernel is installed by the package manager of the installed machine, and started."""

from __future__ import annotations

from tests.families.conftest import Booted, Updated
from tests.families.families import Family
from tests.families.test_families import comes_up, sealed


def test_the_packages_hooks_brought_the_new_kernel_to_both_disks(
    family: Family, booted: Booted, updated: Updated
) -> None:
    """On the ESPs with systemd-boot; with GRUB /boot is a mirror and the ESPs need no change."""
    assert updated.esps.first == updated.esps.second
    changed = updated.esps.first != booted.start.esps.first
    assert changed == (family.loader == "systemd-boot")
    named = [path for path in updated.esps.second if updated.package in path]
    assert len(named) == (3 if changed else 0), named


def test_the_new_kernel_is_the_default_and_the_disks_open_by_themselves(
    booted: Booted, updated: Updated
) -> None:
    assert updated.start.kernel == updated.package != booted.start.kernel
    sealed(updated.start)


def test_nothing_failed_under_the_new_kernel_and_the_esps_are_equal(updated: Updated) -> None:
    comes_up(updated.start)
    assert updated.start.esps.first == updated.start.esps.second == updated.esps.first
