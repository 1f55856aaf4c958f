"""Disks of data: an array of their own, encrypted and bound like the system, and not needed."""

from __future__ import annotations

from qemu.facts import Facts, pins
from qemu.site import Site
from tests.machine.conftest import Boots, Installed

MOUNT = "/var/lib/pgsql"


def mounted(told: Facts) -> dict[str, str]:
    assert MOUNT in told.mounts(), told.said["failed"] + told.said["tree"]
    return told.mounts()[MOUNT]


def test_data_is_mounted_after_every_start_from_a_raid10_of_four(booted: Boots) -> None:
    for told in (booted.first, booted.second):
        found = mounted(told)
        assert found["source"] == "/dev/mapper/vg0_pgdata-var_lib_pgsql"
        assert {"nodev", "nosuid"} <= set(found["options"].split(","))
        assert "[4/4] [UUUU]" in told.said["mdstat"]
        assert "active raid10" in told.said["mdstat"]


def test_data_was_sealed_to_pcr_7_on_the_first_boot(booted: Boots) -> None:
    for told in (booted.first, booted.second):
        assert told.keyslots("data") == [1, 3]
        (binding,) = told.bindings("data").values()
        leaves = dict(pins(binding))
        assert set(leaves) == {"tang", "tpm2"}
        assert leaves["tpm2"]["pcr_ids"] == "7"


def test_the_recovery_key_of_data_is_in_an_envelope_of_its_own(
    site: Site, installed: Installed
) -> None:
    layout = site.report(installed.plan, installed.run)["report"]["layout"]
    kept = {site.escrow.open(path)["luks_uuid"] for path in site.envelopes(installed.plan)}
    assert kept == {layout["luks"]["uuid"], layout["data"][0]["luks"]["uuid"]}
    assert site.envelope(installed.plan, "bedplate-pgdata") in site.envelopes(installed.plan)


def test_the_report_proves_data_as_it_proves_the_system(site: Site, installed: Installed) -> None:
    proofs = site.report(installed.plan, installed.run)["report"]["proofs"]
    assert proofs["prove-unlock-pgdata"]["unlock"] == "proven"
    assert proofs["prove-unlock-pgdata"]["recovery"] == "proven"
    assert proofs["remove-install-key-pgdata"]["keyslots"] == {"1": "passphrase", "2": "clevis"}
    assert proofs["prove-target"]["mirrors"]["pgdata"]["active"] == 4
