"""Refused before a single byte is written, with a message an operator can act on.

One live machine carries all cases: a case is a plan that is wrong in one way, given to the agent by
hand. QEMU counts what the guest writes; at the end the disks are hashed as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from qemu import disk
from qemu.disk import MiB
from qemu.hardware import PAIR, Chassis, Disk, Hardware
from qemu.machine import node
from qemu.program import run
from qemu.site import IMAGE, Site
from qemu.ssh import Result
from qemu.vm import Vm

FOREIGN = Disk("d2", "virtio", size=64 * MiB, serial="BPFOREIGN")
TPM = "/sys/bus/acpi/drivers/tpm_crb"


@dataclass
class Bench:
    """The live machine, its hardware, and a site that serves good and bad images."""

    site: Site
    hardware: Hardware
    vm: Vm

    def refused(self, plan: dict[str, Any], *, status: int) -> str:
        """Give the agent a plan; it must refuse with this status and write nothing."""
        before = self.writes()
        done = self.attempt(plan)
        assert done.status == status, done.stdout + done.stderr
        assert self.writes() == before, "something was written to a disk"
        assert "Traceback" not in done.stderr
        return done.stderr

    def attempt(self, plan: dict[str, Any]) -> Result:
        self.vm.ssh.write("/run/plan.yaml", yaml.safe_dump(plan, sort_keys=False).encode())
        erase = " ".join(f"--erase {each.serial}" for each in self.hardware.chassis.disks)
        return self.vm.ssh.run(f"bedplate install /run/plan.yaml {erase}", 300, check=False)

    def writes(self) -> dict[str, int]:
        """Return by disk how many requests of the guest have changed something, or would have."""
        disks = [each.name for each in self.hardware.chassis.disks]
        names = {node(self.hardware.drive(name)): name for name in disks}
        counted = {
            names[each["device"]]: each["stats"]["wr_operations"]
            + each["stats"]["unmap_operations"]
            for each in self.vm.qmp.execute("query-blockstats")
            if each["device"] in names
        }
        assert len(counted) == len(self.hardware.chassis.disks), "every disk is counted"
        return counted


@pytest.fixture(scope="module")
def bench(site: Site) -> Iterator[Bench]:
    """Boot the live image without a plan on blank disks and one with a stranger's file system."""
    chassis = Chassis(disks=(*PAIR, FOREIGN), identity=replace(Chassis().identity, serial="BP0002"))
    hardware = site.lab.hardware("refusals", chassis)
    raw = site.lab.directory / "foreign.raw"
    raw.write_bytes(b"")
    with raw.open("r+b") as stream:
        stream.truncate(FOREIGN.size)
    run("mkfs.ext4", "-q", "-F", "-L", "pgdata", raw)
    disk.from_raw(hardware.disk("d2"), raw)
    before = hardware.digests()
    with site.lab.booted(
        site.lab.live(hardware, "refusals"), until=lambda vm: vm.ssh.wait(300)
    ) as vm:
        yield Bench(site, hardware, vm)
    assert hardware.digests() == before, "the disks are not what they were"


def good(bench: Bench, **changes: Any) -> dict[str, Any]:
    return bench.site.plan(bench.hardware, storage={"preset": "plain"}, **changes)


def test_a_bad_manifest_signature_is_refused(bench: Bench) -> None:
    images = bench.site.server.directory / "images"
    (images / "forged.json").write_bytes(bench.site.packed.manifest.read_bytes())
    (images / "forged.json.sig").write_bytes(bytes(64))
    url = f"{bench.site.server.url}/images/forged.json"
    said = bench.refused(good(bench, image={"manifest": url}), status=4)
    assert "image.manifest" in said
    assert url in said
    assert "sign" in said


def test_an_unknown_plan_key_is_refused_by_name(bench: Bench) -> None:
    said = bench.refused(good(bench, storge={"preset": "plain"}), status=3)
    assert "storge" in said
    assert "did you mean storage" in said


def test_a_plan_for_another_machine_is_refused_with_both_serials(bench: Bench) -> None:
    said = bench.refused(good(bench, machine={"serial": "CZ9999"}), status=4)
    assert "the plan is for CZ9999, this machine is BP0002" in said


def test_a_wrong_tang_thumbprint_is_refused(bench: Bench) -> None:
    plan = good(bench)
    plan["encryption"]["tang"][0]["thumbprint"] = "x" * 43
    said = bench.refused(plan, status=4)
    assert "encryption.tang" in said
    assert bench.site.tang.url in said
    assert "x" * 43 in said


def test_an_image_larger_than_the_root_volume_is_refused_with_both_sizes(bench: Bench) -> None:
    plan = good(bench)
    small = {"mount": "/", "size": "128 MiB", "filesystem": "ext4"}
    plan["storage"]["volumes"] = [small]
    said = bench.refused(plan, status=4)
    assert f"/: the image {IMAGE} needs" in said
    assert "the volume has 128 MiB" in said


def test_foreign_data_is_refused_and_named(bench: Bench) -> None:
    plan = good(bench, disks={"count": 1, "where": {"serial": "BPFOREIGN"}})
    said = bench.refused(plan, status=4)
    assert "BPFOREIGN" in said
    assert '"pgdata"' in said


def test_a_disk_that_is_not_named_is_not_erased(bench: Bench) -> None:
    bench.vm.ssh.write("/run/plan.yaml", yaml.safe_dump(good(bench)).encode())
    before = bench.writes()
    done = bench.vm.ssh.run("bedplate install /run/plan.yaml --erase BPVIRT0", 300, check=False)
    assert done.status == 4
    assert "--erase BPNVME1" in done.stderr
    assert bench.writes() == before


def test_a_machine_without_tpm_and_all_else_wrong_is_told_in_one_answer(bench: Bench) -> None:
    plan = good(bench, machine={"serial": "CZ9999"}, disks={"count": 1, "where": {"serial": "S9"}})
    plan["encryption"]["tang"][0]["thumbprint"] = "x" * 43
    plan["image"] = {"manifest": f"{bench.site.server.url}/images/absent.json"}
    shell = bench.vm.ssh
    shell.run(f"ls {TPM} | grep MSFT > /run/tpm && tee {TPM}/unbind < /run/tpm")
    try:
        said = bench.refused(plan, status=4)
    finally:
        shell.run(f"tee {TPM}/bind < /run/tpm")
    for part in ("CZ9999", "no TPM", "x" * 43, "absent.json", "S9"):
        assert part in said, said
