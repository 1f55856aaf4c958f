"""What the storage adapters read from sysfs and procfs, and the order in which they take apart."""

from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import UUID

import pytest

from agent.adapters.command import Argument, Finished
from agent.adapters.disks import (
    DiskReader,
    controller,
    identity,
    location,
    model,
    parse_marker,
    transport,
)
from agent.adapters.inventory import InventoryReader
from agent.adapters.kernel import KernelKnobs
from agent.adapters.mounts import SystemMounts, complaints, mount_options
from agent.adapters.storage.dismantle import Dismantler
from agent.adapters.storage.hold import held, identity_of
from agent.errors import CommandError, StepError
from agent.inventory.model import Disk, Marker
from agent.layout.model import FileSystem
from agent.secret import Secret
from agent.target import marker
from tests.unit.fakes_sysfs import GIB, Programs, Sysfs


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


@pytest.fixture
def mirrored(sysfs: Sysfs) -> Sysfs:
    """Two disks, an array over their second partitions, LUKS in it, two volumes in that."""
    for disk in ("vda", "vdb"):
        sysfs.disk(disk)
        sysfs.part(disk, f"{disk}1", 2048)
        sysfs.part(disk, f"{disk}2", 4096)
    sysfs.stack("md127", "vda2", "vdb2")
    sysfs.stack("dm-0", "md127", mapping="crypt", uuid="CRYPT-LUKS2-1-crypt")
    sysfs.stack("dm-1", "dm-0", mapping="vg0-root", uuid="LVM-1")
    sysfs.stack("dm-2", "dm-0", mapping="vg0-home", uuid="LVM-2")
    return sysfs


def test_everything_above_a_disk_comes_before_what_it_stands_on(mirrored: Sysfs) -> None:
    order = mirrored.kernel.above("vda")
    assert set(order) == {"vda1", "vda2", "md127", "dm-0", "dm-1", "dm-2"}
    assert order.index("dm-1") < order.index("dm-0") < order.index("md127") < order.index("vda2")


def test_partitions_come_in_order_of_their_start(sysfs: Sysfs) -> None:
    sysfs.disk("nvme0n1")
    sysfs.part("nvme0n1", "nvme0n1p1", 8192)
    sysfs.part("nvme0n1", "nvme0n1p10", 2048)
    assert sysfs.kernel.partitions("nvme0n1") == ["nvme0n1p10", "nvme0n1p1"]


def test_a_mount_point_with_a_blank_is_read_right(mirrored: Sysfs) -> None:
    mirrored.mount("dm-2", r"/mnt/my\040home")
    assert mirrored.kernel.mounts("dm-2") == [Path("/mnt/my home")]


def test_a_whole_stack_is_taken_apart_top_down(mirrored: Sysfs) -> None:
    mirrored.mount("dm-1", "/target")
    mirrored.mount("dm-2", "/target/home")
    mirrored.swap("vda1")
    programs = Programs(mirrored)
    closed = Dismantler(programs, mirrored.kernel).take_apart(["vda", "vdb"])
    assert mirrored.kernel.above("vda") == ["vda1", "vda2"]
    assert "swap /dev/vda1" in closed
    assert [line for line in closed if not line.startswith("swap")] == [
        "mount /target",
        "mapping vg0-root",
        "mount /target/home",
        "mapping vg0-home",
        "mapping crypt",
        "array md127",
    ]
    assert "cryptsetup close crypt" in programs.ran
    assert "mdadm --stop /dev/md127" in programs.ran


def test_what_is_held_by_something_else_is_tried_again_after_it(sysfs: Sysfs) -> None:
    """An IMSM container holds its disk beside its own array, which must be stopped first."""
    sysfs.disk("sda")
    sysfs.stack("md125", "sda")
    sysfs.stack("md126", "sda")
    programs = Programs(sysfs, refuses_before={"md125": "md126"})
    closed = Dismantler(programs, sysfs.kernel).take_apart(["sda"])
    assert closed == ["array md126", "array md125"]


def test_a_stack_that_does_not_give_way_is_an_error_with_the_reason(mirrored: Sysfs) -> None:
    (mirrored.sys / "class/block/dm-2/holders/stranger").symlink_to("anywhere")
    with pytest.raises(CommandError, match="vg0-home: device or resource busy"):
        Dismantler(Programs(mirrored), mirrored.kernel).take_apart(["vda"])


def test_nothing_on_the_disks_means_nothing_runs(sysfs: Sysfs) -> None:
    sysfs.disk("vda")
    sysfs.part("vda", "vda1")
    programs = Programs(sysfs)
    assert Dismantler(programs, sysfs.kernel).take_apart(["vda"]) == []
    assert programs.ran == []


PCI = "/sys/devices/pci0000:00/0000:00:1f.2"
SAS = f"{PCI}/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block"


@pytest.mark.parametrize(
    ("name", "place", "bus", "expected"),
    [
        ("nvme0n1", f"{PCI}/nvme/nvme0/nvme0n1", "", "nvme"),
        ("vda", f"{PCI}/virtio1/block/vda", "", "virtio"),
        ("mmcblk0", f"{PCI}/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "", "mmc"),
        ("sda", f"{PCI}/ata1/host0/target0:0:0/0:0:0:0/block/sda", "ata", "sata"),
        ("sda", f"{SAS}/sda", "scsi", "sas"),
        ("sda", f"{SAS}/sda", "ata", "sata"),
        ("sda", f"{PCI}/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sda", "ata", "usb"),
        ("sda", f"{PCI}/host1/rport-1:0-2/target1:0:0/1:0:0:0/block/sda", "scsi", "fc"),
        ("sda", "/sys/devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sda", "", "iscsi"),
        ("sda", f"{PCI}/virtio3/host0/target0:0:0/0:0:0:0/block/sda", "scsi", "scsi"),
        ("nvme1n1", "/sys/devices/virtual/nvme-fabrics/ctl/nvme1/nvme1n1", "", "nvmeof"),
        ("xvda", "/sys/devices/vbd-768/block/xvda", "", "unknown"),
    ],
)  # fmt: skip
def test_how_a_disk_is_attached_shows_in_its_place(
    name: str, place: str, bus: str, expected: str
) -> None:
    assert transport(name, place, {"ID_BUS": bus}) == expected


def test_the_controller_is_the_nearest_pci_function() -> None:
    behind = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1"
    assert controller(behind) == "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
    assert controller("/sys/devices/platform/x/block/vda") is None


def test_an_nvme_disk_of_two_ports_stands_where_its_first_port_does(sysfs: Sysfs) -> None:
    subsystem = sysfs.sys / "devices/virtual/nvme-subsystem/nvme-subsys0"
    sysfs.disk("nvme0n1", "virtual/nvme-subsystem/nvme-subsys0")
    for port, slot in (("nvme10", "02"), ("nvme2", "01")):
        place = sysfs.sys / f"devices/pci0000:00/0000:00:{slot}.0/nvme/{port}"
        place.mkdir(parents=True)
        (place / "transport").write_text("pcie\n")
        (subsystem / port).symlink_to(place)
    where = location("nvme0n1", sysfs.kernel)
    assert where.endswith("0000:00:01.0/nvme/nvme2/nvme0n1")
    assert str(controller(where)).endswith("0000:00:01.0")


def chosen(sysfs: Sysfs, serial: str = "S1") -> Disk:
    """Return a disk whose number in the fake sysfs is 254:1."""
    sysfs.disk("vda")
    sysfs.write("class/block/vda/serial", serial)
    (sysfs.sys / "dev/block").mkdir(parents=True)
    (sysfs.sys / "dev/block/254:1").symlink_to("../../class/block/vda")
    return Disk(path="/dev/vda", serial="S1", size=GIB)


def test_who_a_disk_is_is_read_by_the_number_of_the_open_descriptor(sysfs: Sysfs) -> None:
    disk = chosen(sysfs)
    assert identity_of(os.makedev(254, 1), sysfs.kernel, {}) == ("S1", None, disk.size)
    with pytest.raises(StepError, match="254:2: is gone"):
        identity_of(os.makedev(254, 2), sysfs.kernel, {})


@pytest.mark.parametrize(
    ("path", "problem"),
    [("/dev/null", "/dev/null: is not a block device"), ("/nowhere", "no such file or directory")],
)
def test_what_is_no_disk_any_more_is_not_held(sysfs: Sysfs, path: str, problem: str) -> None:
    gone = chosen(sysfs).model_copy(update={"path": path})
    with pytest.raises(StepError, match=problem), held([gone], sysfs.kernel):
        pytest.fail("held")


def test_serials_are_the_devices_own_words_with_their_blanks(sysfs: Sysfs) -> None:
    sysfs.disk("vda")
    sysfs.write("class/block/vda/serial", "MY DISK 1")
    udev = {"ID_SERIAL": "MY_DISK_1"}
    assert identity("vda", sysfs.kernel, udev) == ("MY DISK 1", None, GIB)
    sysfs.disk("sda", "pci0000:00/host0/target0:0:0/0:0:0:0/block")
    udev = {
        "ID_SERIAL": "ATA_ACME_XYZ",
        "ID_SERIAL_SHORT": "XYZ",
        "ID_WWN": "0x5000c500a",
        "ID_WWN_WITH_EXTENSION": "0x5000c500a0000001",
        "ID_MODEL_ENC": r"ACME\x20SSD\x20900\x20\x20",
    }
    assert identity("sda", sysfs.kernel, udev) == ("XYZ", "0x5000c500a0000001", GIB)
    assert model("sda", sysfs.kernel, udev) == "ACME SSD 900"


def test_only_mounts_that_are_not_our_own_stand_in_the_way(mirrored: Sysfs) -> None:
    reader = DiskReader(kernel=mirrored.kernel)
    mirrored.mount("dm-1", "/run/bedplate/target")
    assert list(reader._uses("vda")) == []
    mirrored.mount("dm-2", "/mnt")
    mirrored.swap("vda1")
    assert sorted(reader._uses("vda")) == [
        "/dev/dm-2 is mounted at /mnt",
        "/dev/vda1 is in use as swap",
    ]


@pytest.mark.parametrize("name", ["loop0", "zram0", "md127", "dm-3", "sr0", "mmcblk0boot0", "zd16"])
def test_views_of_other_devices_are_no_disks(sysfs: Sysfs, name: str) -> None:
    sysfs.disk(name)
    sysfs.disk("sda")
    sysfs.disk("mmcblk0")
    reader = DiskReader(kernel=sysfs.kernel)
    assert not reader._counts(name)
    assert reader._counts("sda")
    assert reader._counts("mmcblk0")


def test_a_disk_that_cannot_be_read_is_listed_as_such(sysfs: Sysfs) -> None:
    sysfs.disk("sda")

    def broken(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> str:
        raise CommandError([os.fspath(word) for word in argv], "exited with status 1", "I/O error")

    found = DiskReader(broken, kernel=sysfs.kernel)._disk("sda", {})
    assert [content.kind for content in found.content] == ["unreadable"]
    assert not found.blank


LOADER = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


@pytest.mark.parametrize(
    ("bus", "booted", "medium"),
    [("usb", False, True), ("ata", False, False), ("ata", True, True)],
    ids=["a stick", "a stale label on an internal disk", "the internal disk that was booted from"],
)
def test_a_labelled_disk_is_the_boot_medium_on_usb_or_where_it_was_booted_from(
    sysfs: Sysfs, bus: str, booted: bool, medium: bool
) -> None:
    sysfs.disk("sda")
    sysfs.part("sda", "sda1")
    uuid = "5a1f0d63-7c56-4b35-8a0e-0f6f0c1b2d3e"
    (sysfs.kernel.block("sda1") / "uevent").write_text(f"DEVNAME=sda1\nPARTUUID={uuid}\n")
    if booted:
        variable = sysfs.kernel.sys / "firmware/efi/efivars" / LOADER
        variable.parent.mkdir(parents=True)
        variable.write_bytes(b"\6\0\0\0" + f"{uuid.upper()}\0".encode("utf-16-le"))

    def labelled(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> str:
        assert argv[0] == "wipefs"
        found = {"type": "vfat", "offset": "0x0", "label": "BEDPLATE", "uuid": "4C5D-0001"}
        return json.dumps({"signatures": [found]})

    def no_table(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> Finished:
        return Finished(tuple(os.fspath(word) for word in argv), 1, "", "no partition table")

    found = DiskReader(labelled, no_table, sysfs.kernel)._disk("sda", {"ID_BUS": bus})
    assert found.partitions == (uuid,)
    assert {content.label for content in found.content} == {"BEDPLATE"}
    assert found.boot_medium is medium


def test_a_damaged_marker_is_no_marker() -> None:
    text = '{"plan": "0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11", "hostname": "h", "machine": "m"'
    assert parse_marker(text, "/dev/vda1") is None


def test_the_marker_that_an_installation_writes_is_the_one_that_is_read() -> None:
    note = Marker(plan=UUID(int=7), hostname="h", machine="m", finished="2026-11-22T12:00:00Z")
    assert parse_marker(marker.render(note).decode(), "/dev/vda1") == note


@pytest.fixture
def arrays(tmp_path: Path) -> KernelKnobs:
    for name, action, degraded in (("md126", "resync", 0), ("md127", "idle", 1)):
        md = tmp_path / "sys/block" / name / "md"
        md.mkdir(parents=True)
        (md / "raid_disks").write_text("2\n")
        (md / "degraded").write_text(f"{degraded}\n")
        (md / "sync_action").write_text(f"{action}\n")
    (tmp_path / "sys/block/md125/md").mkdir(parents=True)  # inactive: no sync_action
    (tmp_path / "dev/md").mkdir(parents=True)
    (tmp_path / "dev/md126").touch()
    (tmp_path / "dev/md/root").symlink_to("../md126")
    return KernelKnobs(tmp_path / "sys", tmp_path / "dev")


def test_mirrors_are_known_by_name_with_their_active_members(arrays: KernelKnobs) -> None:
    assert [(m.name, m.members, m.active, m.sync) for m in arrays.mirrors()] == [
        ("root", 2, 2, "resync"),
        ("md127", 2, 1, "idle"),
    ]


def test_resync_is_frozen_per_array_and_let_go_again(arrays: KernelKnobs) -> None:
    arrays.hold_resync()
    assert {m.sync for m in arrays.mirrors()} == {"frozen"}
    arrays.resume_resync()
    assert {m.sync for m in arrays.mirrors()} == {"idle"}


def filesystem(kind: str, *options: str) -> FileSystem:
    return FileSystem(Path("/dev/x"), "UUID=x", "/x", kind, "x", "x", options)


def test_only_vfat_is_mounted_with_options_while_installing() -> None:
    assert mount_options(filesystem("xfs", "nodev", "noexec", "x-systemd.growfs")) == []
    assert mount_options(filesystem("vfat", "nodev", "nofail")) == ["umask=0077"]
    masked = filesystem("vfat", "nosuid", "fmask=0137", "dmask=0027", "x-systemd.automount")
    assert mount_options(masked) == ["fmask=0137", "dmask=0027"]


def test_lines_of_fstab_that_would_not_mount_are_complained_of_and_others_are_not() -> None:
    report = """\
/
   [ ] target exists
   [ ] source /dev/mapper/vg0-root exists
/home
   [W] target specified more than once
   [W] unreachable source: /dev/mapper/vg0-nope: No such file or directory
/tmp
   [W] recommended root FS passno is 1
/nix
   [E] unreachable on boot required target: No such file or directory

0 parse errors, 1 error, 3 warnings
"""
    assert list(complaints(report)) == [
        "/home: target specified more than once",
        "/home: unreachable source: /dev/mapper/vg0-nope: No such file or directory",
        "/nix: unreachable on boot required target: No such file or directory",
    ]


def test_unmounting_goes_from_the_latest_to_the_first_and_stays_below_the_root(
    tmp_path: Path,
) -> None:
    lines = [
        f"1 0 8:1 / {place} rw - xfs /dev/sda1 rw"
        for place in (tmp_path, tmp_path / "var", tmp_path / "var/log", f"{tmp_path}-other")
    ]
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text("\n".join(lines) + "\n")
    ran: list[str] = []

    def run(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> str:
        ran.append(" ".join(os.fspath(word) for word in argv))
        return ""

    SystemMounts(run, proc=tmp_path).detach(tmp_path)
    assert ran == [f"umount {tmp_path}/{p}".rstrip("/") for p in ("var/log", "var", "")]


def test_a_board_that_was_never_given_a_serial_has_none(sysfs: Sysfs) -> None:
    sysfs.write("class/dmi/id/sys_vendor", "ACME\n")
    sysfs.write("class/dmi/id/product_serial", "To Be Filled By O.E.M.\n")
    sysfs.write("class/dmi/id/product_uuid", "00000000-0000-0000-0000-000000000000\n")
    dmi = InventoryReader(sysfs.sys, sysfs.proc).dmi()
    assert (dmi.vendor, dmi.product, dmi.serial, dmi.uuid) == ("ACME", None, None, None)


def test_firmware_tpm_and_memory_are_read_from_the_kernel(sysfs: Sysfs) -> None:
    reader = InventoryReader(sysfs.sys, sysfs.proc)
    assert not reader.firmware().uefi
    assert reader.tpm() is None
    variable = sysfs.sys / "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\6\0\0\0\1")
    assert reader.firmware().secure_boot
    sysfs.write("class/tpm/tpm0/tpm_version_major", "1\n")
    sysfs.write("class/tpm/tpm1/tpm_version_major", "2\n")
    tpm = reader.tpm()
    assert tpm is not None
    assert (tpm.device, tpm.sha256_bank) == ("/dev/tpmrm1", False)
    (sysfs.proc / "meminfo").write_text("MemTotal:  2014432 kB\nMemFree: 1 kB\n")
    assert reader.memory() == 2014432 * 1024


def test_nics_are_cards_with_their_addresses(sysfs: Sysfs) -> None:
    sysfs.write("class/net/lo/address", "00:00:00:00:00:00\n")
    sysfs.write("class/net/eth0/address", "52:54:00:12:34:56\n")
    sysfs.write("class/net/eth0/carrier", "1\n")
    sysfs.write("class/net/eth0/speed", "-1\n")
    (sysfs.sys / "bus/virtio_net").mkdir(parents=True)
    (sysfs.sys / "class/net/eth0/device").mkdir()
    (sysfs.sys / "class/net/eth0/device/driver").symlink_to(sysfs.sys / "bus/virtio_net")

    def ip(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> str:
        return (
            '[{"ifname": "eth0", "addr_info": [{"local": "10.0.2.15", "prefixlen": 24,'
            ' "scope": "global"}, {"local": "fe80::1", "prefixlen": 64, "scope": "link"}]}]'
        )

    (nic,) = InventoryReader(sysfs.sys, sysfs.proc, ip).nics()
    assert nic.model_dump() == {
        "name": "eth0",
        "mac": "52:54:00:12:34:56",
        "driver": "virtio_net",
        "carrier": True,
        "speed": None,
        "addresses": ("10.0.2.15/24",),
    }


def test_a_port_of_a_bond_is_known_by_the_address_it_was_made_with(sysfs: Sysfs) -> None:
    for name in ("eth0", "eth1"):
        sysfs.write(f"class/net/{name}/address", "52:54:00:12:34:56\n")
        (sysfs.sys / f"class/net/{name}/device").mkdir()

    def ip(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> str:
        return '[{"ifname": "eth0"}, {"ifname": "eth1", "permaddr": "52:54:00:12:34:57"}]'

    nics = InventoryReader(sysfs.sys, sysfs.proc, ip).nics()
    assert [nic.mac for nic in nics] == ["52:54:00:12:34:56", "52:54:00:12:34:57"]
