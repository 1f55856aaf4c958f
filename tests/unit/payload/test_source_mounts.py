"""Which partition of a disk image goes where: what fstab says, and else what the types say."""

from __future__ import annotations

import pytest

from agent.errors import PlanError
from agent.payload.sources.filesystem import FileSystem
from agent.payload.sources.mounts import Mount, Root, candidates, mounts
from agent.payload.sources.partitions import ESP, PLACES, ROOTS, Part

VAR = next(type_ for type_, at in PLACES.items() if at == "/var")
UUID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


def part(number: int, type_: str = "", system: str = "ext4", **more: str) -> Part:
    uuid, label = more.pop("uuid", ""), more.pop("label", "")
    found = FileSystem(system, uuid, label)
    return Part(number, number << 20, 1 << 20, type_, system=found, **more)


ROOT = part(1, next(iter(ROOTS)))


def told(fstab: str, *parts: Part, directories: str = "") -> dict[str, tuple[int, str]]:
    """Return mount point -> number of the partition and subvolume, in order."""
    root = Root(Mount("/", ROOT), fstab, frozenset(directories.split()))
    found = mounts((ROOT, *parts), root, "disk")
    assert [one.at for one in found] == sorted(one.at for one in found)
    return {one.at: (one.part.number, one.subvolume) for one in found}


@pytest.mark.parametrize(
    ("source", "more"),
    [
        (f"UUID={UUID}", {"uuid": UUID}),
        (f"UUID={UUID.upper()}", {"uuid": UUID}),
        (f'UUID="{UUID}"', {"uuid": UUID}),
        ("UUID=CAFE-0001", {"uuid": "cafe-0001"}),
        ("LABEL=logs", {"label": "logs"}),
        (r"LABEL=the\040logs", {"label": "the logs"}),
        (f"PARTUUID={UUID}", {"partuuid": UUID}),
        ("PARTUUID=12345678-02", {"partuuid": "12345678-02"}),
        ("PARTLABEL=logs", {"name": "logs"}),
        (f"/dev/disk/by-uuid/{UUID}", {"uuid": UUID}),
        ("/dev/disk/by-label/logs", {"label": "logs"}),
        (f"/dev/disk/by-partuuid/{UUID}", {"partuuid": UUID}),
        ("/dev/vda2", {}),
        ("/dev/sda2", {}),
        ("/dev/nvme0n1p2", {}),
        ("/dev/mmcblk0p2", {}),
    ],
)
def test_fstab_names_a_partition_in_many_ways(source: str, more: dict[str, str]) -> None:
    other = part(3, uuid="other", label="other", partuuid="other", name="other")
    assert told(f"{source} /srv/logs ext4 defaults 0 2", other, part(2, **more)) == {
        "/": (1, ""),
        "/srv/logs": (2, ""),
    }


@pytest.mark.parametrize(
    "line",
    [
        "# UUID=x /srv ext4 defaults",
        "  # UUID=x /srv ext4 defaults",
        "UUID=x none swap sw",
        "tmpfs /tmp tmpfs size=1G",
        "proc /proc proc",
        "server:/export /srv nfs4 _netdev",
        "//server/share /srv cifs guest",
        "/srv/a /srv/b none bind",
        "UUID=x /srv ext4 nofail",
        "/dev/sdb1 /srv ext4 noauto,user",
        "UUID=root / ext4 errors=remount-ro",
        "garbage",
    ],
)
def test_what_is_no_part_of_the_system_is_passed_over(line: str) -> None:
    assert told(line) == {"/": (1, "")}


@pytest.mark.parametrize("source", [f"UUID={UUID}", "/dev/sdb1", "/dev/mapper/vg-srv", "LABEL="])
def test_what_the_system_wants_and_the_image_has_not_is_refused(source: str) -> None:
    with pytest.raises(PlanError, match=f"disk: /srv: is on {source}, which is no partition"):
        told(f"{source} /srv ext4 defaults")


def test_a_partition_that_cannot_be_read_is_refused_by_what_it_is() -> None:
    with pytest.raises(PlanError, match=r"/srv: is on partition 2 \(LUKS\), which cannot be read"):
        told("/dev/vda2 /srv ext4 defaults", part(2, system="LUKS"))


def test_mount_points_are_told_as_they_are_and_never_leave_the_root() -> None:
    fstab = "/dev/vda2 /with\\040space/ ext4 x\n/dev/vda3 /../../srv ext4 x\n"
    assert set(told(fstab, part(2), part(3))) == {"/", "/with space", "/srv"}


def test_a_subvolume_is_an_option_of_btrfs_alone() -> None:
    fstab = "/dev/vda2 /home btrfs rw,subvol=home\n/dev/vda3 /srv ext4 subvol=x\n"
    assert told(fstab, part(2, system="btrfs"), part(3)) == {
        "/": (1, ""),
        "/home": (2, "subvol=home"),
        "/srv": (3, ""),
    }


def test_a_partition_that_fstab_does_not_name_goes_where_its_type_says() -> None:
    assert told("", part(2, VAR), part(3)) == {"/": (1, ""), "/var": (2, "")}
    # but neither twice, nor over what fstab wants there
    assert told("/dev/vda2 /srv ext4 x", part(2, VAR)) == {"/": (1, ""), "/srv": (2, "")}
    assert told("/dev/vda3 /var ext4 x", part(2, VAR), part(3)) == {"/": (1, ""), "/var": (3, "")}


@pytest.mark.parametrize(
    ("directories", "at"),
    [("/efi /boot/efi /boot", "/efi"), ("/boot/efi /boot", "/boot/efi"), ("/boot", "/boot")],
)
def test_an_esp_goes_where_there_is_a_directory_for_it(directories: str, at: str) -> None:
    esp = part(2, ESP, system="vfat")
    assert told("", esp, directories=directories) == {"/": (1, ""), at: (2, "")}
    assert told("", esp) == {"/": (1, "")}


def test_the_root_is_looked_for_by_type_then_by_name_then_everywhere() -> None:
    plain, labelled = part(2), part(3, label="cloudimg-rootfs")
    skipped = (part(4, VAR), part(5, ESP, system="vfat"), part(6, system="swap"))
    groups = list(candidates((*skipped, plain, labelled, ROOT)))
    assert groups == [(ROOT,), (labelled,), (plain, labelled, ROOT)]
