"""A bad image, and disks that were used before: ours, or a stranger's."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from qemu.errors import WaitTimeoutError
from qemu.facts import facts, pins
from qemu.hardware import Chassis, Hardware
from qemu.site import IMAGE, Site
from qemu.ssh import Result
from tests.adapters.crooked import Crooked, Fault, Flip, Request
from tests.machine.conftest import DISKS, INSTALL, Boots, install, up

# What another installer left: LVM on a mirror of partitions, with data in it.
STRANGER = r"""
set -eux
for disk in /dev/vda /dev/nvme0n1; do
    printf 'label: gpt\n,1G,R\n,,R\n' | sfdisk -q $disk
done
udevadm settle
mdadm --create /dev/md/other --run --level=1 --raid-devices=2 --metadata=1.2 --homehost=stranger \
    /dev/vda2 /dev/nvme0n1p2 --assume-clean
mdadm --create /dev/md/swap --run --level=1 --raid-devices=2 --metadata=1.0 --homehost=stranger \
    /dev/vda1 /dev/nvme0n1p1 --assume-clean
pvcreate -qq /dev/md/other
vgcreate -qq vg0 /dev/md/other
lvcreate -qq -y -n root -L 2G vg0
mkfs.ext4 -q -L stranger /dev/vg0/root
mkswap -q /dev/md/swap
sync
"""


def small(site: Site, hardware: Hardware, **changes: Any) -> dict[str, Any]:
    """Return a plan that installs quickly: one volume, Tang alone."""
    encryption = site.plan(hardware)["encryption"] | {"unlock": "tang"}
    disks = {"count": 2, "where": {"transport": ["virtio", "nvme"]}, "erase": "any"}
    storage = {"preset": "plain", "filesystem": "ext4"}
    return site.plan(hardware, encryption=encryption, disks=disks, storage=storage, **changes)


def flipped(request: Request) -> Fault | None:
    """Deliver one chunk wrong, in the middle of the image, whenever it is asked for."""
    return (
        Flip() if request.path.endswith(".zst") and request.first < 60e6 <= request.last else None
    )


@pytest.fixture(scope="module")
def stranger(site: Site) -> Hardware:
    """A machine whose disks somebody else has used."""
    return site.lab.hardware("stranger", Chassis(disks=DISKS, tpm=False))


@pytest.fixture(scope="module")
def failed(site: Site, stranger: Hardware) -> Result:
    """Install a corrupted image over LVM on md that is still assembled; the machine stays up."""
    files = {path.name: path.read_bytes() for path in site.packed.directory.iterdir()}
    with Crooked(files, flipped) as server:
        manifest = f"http://10.0.2.2:{server.port}/{IMAGE}.json"
        plan = small(site, stranger, image={"manifest": manifest})
        machine = site.lab.live(stranger, "corrupted")
        with site.lab.booted(machine, until=lambda vm: vm.ssh.wait(300)) as vm:
            vm.ssh.write("/run/stranger.sh", STRANGER.encode())
            vm.ssh.run("sh /run/stranger.sh", timeout=300)
            vm.ssh.write("/run/plan.yaml", yaml.safe_dump(plan).encode())
            erase = "--erase BPVIRT0 --erase BPNVME1"
            done = vm.ssh.run(f"bedplate install /run/plan.yaml {erase}", INSTALL, check=False)
            vm.ssh.run("test ! -e /dev/vg0 && ! grep md /proc/mdstat", timeout=60)
            return done


def test_a_corrupted_chunk_ends_in_a_named_failure(site: Site, failed: Result) -> None:
    assert failed.status == 5
    assert "sha256" in failed.stderr
    assert f"{IMAGE}.tar.zst" in failed.stderr
    assert "unbootable" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_disks_of_a_failed_installation_do_not_boot(
    site: Site, stranger: Hardware, failed: Result
) -> None:
    del failed
    machine = site.lab.branch(stranger, "half").machine("half")
    with site.lab.power_on(machine) as vm:
        with pytest.raises(WaitTimeoutError):
            vm.wait_for(r"Linux version|systemd-boot|Boot in", 45)
        vm.quit()


def test_the_same_machine_installs_over_what_both_left(
    site: Site, stranger: Hardware, failed: Result
) -> None:
    del failed
    again = site.lab.branch(stranger, "again")
    plan = small(site, again)
    install(site, again, plan, "over-stranger")
    with site.lab.booted(again.machine("over-stranger-boot"), until=up) as vm:
        vm.ssh.run("systemctl is-system-running --wait", timeout=300, check=False)
        told = facts(vm)
    assert told.state == "running"
    assert told.mounts()["/"]["fstype"] == "ext4"
    assert told.said["mdstat"].count("[2/2]") == 2
    assert [dict(pins(config)).keys() for config in told.bindings().values()] == [
        {"tang": 0}.keys()
    ]


def test_it_installs_over_an_older_installation_of_ours(site: Site, booted: Boots) -> None:
    old = site.lab.branch(booted.hardware, "reinstalled")
    plan = small(site, old, hostname="web01.example.com")
    install(site, old, plan, "over-ours")
    with site.lab.booted(old.machine("over-ours-boot"), until=up) as vm:
        told = facts(vm)
    assert told.said["hostname"].strip() == "web01.example.com"
    disks = site.report(plan)["report"]["layout"]["disks"]
    lost = {content["kind"] for disk in disks for content in disk["lost"]}
    assert {"gpt", "vfat", "linux_raid_member"} <= lost
