"""The main job: two blank disks become a mirrored, encrypted machine that boots by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.inventory.model import Disk, Dmi, Firmware, Inventory, Tpm
from agent.payload.sign import load_signing_key
from qemu.facts import pins
from qemu.server import PLAN_KEY
from qemu.site import Site
from tests.machine.conftest import Boots, Installed

STIG = {
    "/home": {"nodev", "nosuid", "noexec"},
    "/tmp": {"nodev", "nosuid", "noexec"},
    "/var": {"nodev"},
    "/var/log": {"nodev", "nosuid", "noexec"},
    "/var/log/audit": {"nodev", "nosuid", "noexec"},
    "/var/tmp": {"nodev", "nosuid", "noexec"},
    "/dev/shm": {"nodev", "nosuid", "noexec"},
    "/boot": {"nodev", "nosuid"},
    "/boot/efi": {"nodev", "nosuid"},
    "/boot/efi2": {"nodev", "nosuid"},
}


def test_a_connection_cut_three_times_does_not_stop_the_installation(installed: Installed) -> None:
    assert installed.cuts == 3


def test_the_report_proves_unlock_mirrors_and_equal_esps(site: Site, installed: Installed) -> None:
    report = site.report(installed.plan, installed.run)["report"]
    proofs = report["proofs"]
    assert report["state"] == "installed"
    assert proofs["prove-unlock"]["unlock"] == "proven"
    assert proofs["prove-unlock"]["recovery"] == "proven"
    assert proofs["prove-unlock"]["state"] == "provisional"
    assert proofs["remove-install-key"]["keyslots"] == {"1": "passphrase", "2": "clevis"}
    assert [disk["serial"] for disk in report["layout"]["disks"]] == ["BPVIRT0", "BPNVME1"]


def test_the_plan_was_signed_and_given_for_this_very_boot(site: Site, installed: Installed) -> None:
    (found,) = (
        event["evidence"]
        for event in site.events(installed.plan, installed.run)
        if (event["step"], event["state"]) == ("find", "finished")
    )
    assert found["signed_by"] == load_signing_key(PLAN_KEY).public.id
    assert found["fresh"] is True


def test_preview_shows_what_the_installation_made(
    site: Site, installed: Installed, booted: Boots, tmp_path: Path
) -> None:
    """On another machine and beforehand, from a record of this one with blank disks."""
    shown = previewed(installed, tmp_path)
    report = site.report(installed.plan, installed.run)["report"]
    assert known(shown["layout"]) == known(report["layout"])
    devices = booted.second.devices()
    found = {}
    for each in devices.values():
        found[each["partuuid"] if each["type"] == "part" else each["path"]] = each
    for disk in every_disk(shown["layout"]):
        for part in disk["partitions"]:
            on_disk = found[part["partuuid"]]
            assert on_disk["size"] == part["size"]
            assert on_disk["start"] * 512 == part["start"]
            assert (on_disk["partlabel"], on_disk["parttype"]) == (part["name"], part["type"])
            (parent,) = (d for d in devices.values() if d["serial"] == disk["serial"])
            assert on_disk["name"].startswith(parent["name"])
            assert parent["size"] == disk["size"]
    sizes = {each["path"]: each["size"] for each in devices.values()}
    for stack in (shown["layout"], *shown["layout"]["data"]):
        assert found_uuid(devices, "crypto_LUKS", stack["luks"]["uuid"])
        assert f"/dev/mapper/{stack['luks']['mapping']}" in sizes
        for array in stack["arrays"]:
            (made,) = {
                (d["size"], d["type"])
                for d in devices.values()
                if d["type"] == array["level"] and d["size"] == array["size"]
            }
            assert made == (array["size"], array["level"])
        for volume in stack["volumes"]:
            assert sizes[volume["device"]] == volume["size"]
            assert found_uuid(devices, volume["kind"], volume["uuid"])
            live = booted.second.mounts()[volume["mount"]]
            assert live["source"] == volume["device"]
            assert live["fstype"] == volume["kind"]
            assert set(volume["options"]) <= set(live["options"].split(","))


def previewed(installed: Installed, place: Path) -> dict[str, Any]:
    """Return what `bedplate preview --json` says on this host, which is another machine."""
    chassis = installed.hardware.chassis
    disks = tuple(
        Disk(
            path=f"/dev/disk{number}", serial=disk.serial, size=disk.size,
            transport={"scsi": "scsi"}.get(disk.bus, "nvme"), rotational=disk.bus == "scsi",
        )
        for number, disk in enumerate(chassis.disks)
    )  # fmt: skip
    machine = Inventory(
        dmi=Dmi(serial=chassis.identity.serial), firmware=Firmware(uefi=True), memory=2 << 30,
        tpm=Tpm(device="/dev/tpmrm0"), disks=disks,
    )  # fmt: skip
    (place / "machine.json").write_text(machine.model_dump_json())
    (place / "plan.yaml").write_text(yaml.safe_dump(installed.plan))
    done = subprocess.run(
        [sys.executable, "-m", "agent", "preview", place / "plan.yaml", "--json",
         "--inventory", place / "machine.json"],
        capture_output=True, check=True, timeout=120, text=True,
    )  # fmt: skip
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def known(layout: Any) -> Any:
    """Return a layout without what only the machine itself tells of its disks."""
    if isinstance(layout, dict):
        hidden = {"path", "wwn", "model", "lost", "why"}
        return {key: known(value) for key, value in layout.items() if key not in hidden}
    return [known(each) for each in layout] if isinstance(layout, list) else layout


def every_disk(layout: dict[str, Any]) -> list[dict[str, Any]]:
    return [*layout["disks"], *(disk for one in layout["data"] for disk in one["disks"])]


def found_uuid(devices: dict[str, dict[str, Any]], kind: str, uuid: str) -> bool:
    return any((each["fstype"], each["uuid"]) == (kind, uuid) for each in devices.values())


def test_every_event_arrived_in_order_and_none_twice(site: Site, installed: Installed) -> None:
    numbers = [event["seq"] for event in site.events(installed.plan, installed.run)]
    assert numbers == sorted(set(numbers))


def test_no_secret_is_in_any_event_or_console(site: Site, installed: Installed) -> None:
    key = site.escrow.open(site.envelope(installed.plan))["key"]
    told = "".join(json.dumps(event) for event in site.events(installed.plan))
    console = (site.lab.directory.parents[1] / "vm/install/console.log").read_text()
    assert key not in told
    assert key not in console


def test_it_reaches_multi_user_without_a_key_pressed(booted: Boots) -> None:
    assert booted.first.said["hostname"].strip() == "db01.example.com"
    assert "installed by bedplate" in booted.first.said["motd"]


def test_nothing_failed_in_the_installed_system(booted: Boots) -> None:
    assert (booted.first.state, booted.first.said["failed"].strip()) == ("running", "")
    assert (booted.second.state, booted.second.said["failed"].strip()) == ("running", "")


@pytest.mark.parametrize("mount", STIG)
def test_a_mount_of_the_preset_has_its_options_live_and_in_fstab(booted: Boots, mount: str) -> None:
    live = set(booted.first.mounts()[mount]["options"].split(","))
    assert STIG[mount] <= live
    assert STIG[mount] <= set(booted.first.fstab()[mount])


def test_every_volume_lies_on_the_encrypted_mirror(booted: Boots) -> None:
    tree = booted.first.said["tree"]
    assert "crypt" in tree
    assert tree.count("raid1") >= 2
    mdstat = booted.first.said["mdstat"]
    assert mdstat.count("[2/2] [UU]") == 2


def test_the_first_boot_sealed_to_pcr_7_and_removed_the_provisional_binding(
    booted: Boots,
) -> None:
    bindings = booted.first.bindings()
    assert list(bindings) == [3]
    assert booted.first.keyslots() == [1, 3]
    leaves = dict(pins(bindings[3]))
    assert set(leaves) == {"tang", "tpm2"}
    assert leaves["tpm2"]["pcr_ids"] == "7"
    assert leaves["tpm2"]["pcr_bank"] == "sha256"


def test_the_first_boot_reported_that_it_is_sealed(
    site: Site, installed: Installed, booted: Boots
) -> None:
    del booted
    sealed = [event for event in site.events(installed.plan) if event["step"] == "seal"]
    assert sealed[-1]["state"] == "finished"
    assert sealed[-1]["evidence"]["pcrs"] == [7]


def test_a_second_boot_unlocks_by_tang_and_the_sealed_tpm(booted: Boots) -> None:
    assert booted.asked_tang >= 1
    assert booted.second.said["hostname"].strip() == "db01.example.com"
    assert list(booted.second.bindings()) == [3]


def test_machine_id_is_this_hosts_own(booted: Boots) -> None:
    assert len(booted.first.said["machine"].strip()) == 32
    assert booted.first.said["machine"] == booted.second.said["machine"]
