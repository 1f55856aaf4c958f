from dataclasses import replace
from pathlib import Path

import pytest

from agent.layout.model import FileSystem, Volume
from agent.target.crypttab import crypttab
from agent.target.fstab import fstab
from agent.target.mdadm_conf import mdadm_conf, place
from agent.target.tree import Tree
from tests.unit.target.sample import layout, uuid


def lines(text: str) -> dict[str, list[str]]:
    """Return mount point -> fields of an fstab."""
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    assert all(len(row) == 6 for row in rows)
    return {row[1]: row for row in rows}


def test_every_file_system_has_a_line_and_parents_come_first() -> None:
    mounts = list(lines(fstab(layout())))
    assert mounts == [
        "/",
        "/boot",
        "/tmp",
        "/boot/efi",
        "/boot/efi2",
        "/var/log/audit",
        "/dev/shm",
    ]


def test_swap_is_named_and_mounted_nowhere() -> None:
    plain = layout()
    device = Path("/dev/mapper/vg0-swap")
    swap = FileSystem(device, str(device), "none", "swap", "u", "swap", ())
    volumes = (*plain.group.volumes, Volume("swap", 1 << 30, swap))
    found = fstab(replace(plain, group=replace(plain.group, volumes=volumes)))
    line = "/dev/mapper/vg0-swap none swap x-systemd.device-timeout=300s 0 0\n"
    assert line in found
    assert lines(found).keys() - lines(fstab(plain)).keys() == {"none"}


def test_shared_memory_has_the_line_that_scanners_look_for() -> None:
    assert "tmpfs /dev/shm tmpfs rw,nodev,nosuid,noexec 0 0\n" in fstab(layout())


def test_volumes_are_named_by_mapper_path_and_partitions_by_uuid() -> None:
    found = lines(fstab(layout(group="vg-0")))
    assert found["/tmp"][0] == "/dev/mapper/vg--0-tmp"
    assert found["/boot"][0] == f"UUID={uuid(900)}"
    assert found["/boot/efi2"][0] == "UUID=AAAA-0002"


def test_a_lost_disk_does_not_hold_up_the_boot() -> None:
    found = lines(fstab(layout()))
    for mount in ("/boot", "/boot/efi", "/boot/efi2"):
        options = found[mount][3].split(",")
        assert "nofail" in options
        assert any(option.startswith("x-systemd.device-timeout=") for option in options)
    assert "nofail" not in found["/tmp"][3]


def test_only_root_may_look_into_an_esp() -> None:
    assert "umask=0077" in lines(fstab(layout()))["/boot/efi"][3].split(",")


def test_options_the_layout_gives_are_kept_and_not_doubled() -> None:
    plain = layout()
    given = ("umask=0027", "nofail", "x-systemd.device-timeout=5s")
    esps = tuple(replace(esp, options=given) for esp in plain.esps)
    assert lines(fstab(replace(plain, esps=esps)))["/boot/efi"][3] == ",".join(given)


def test_options_that_are_asked_for_are_there_and_none_means_defaults() -> None:
    found = lines(fstab(layout()))
    assert found["/var/log/audit"][3] == "nodev,nosuid,noexec,x-systemd.device-timeout=300s"
    assert found["/"][3] == "defaults"


def test_a_blank_in_a_mount_point_is_written_in_octal() -> None:
    spaced = layout(mounts=(("/", ()), ("/srv/my data", ())))
    assert " /srv/my\\040data xfs " in fstab(spaced)


def test_crypttab_names_the_volume_by_uuid_and_keeps_it_open_to_the_end() -> None:
    assert crypttab(layout()) == (
        "bedplate-root UUID=11111111-1111-4111-8111-111111111111 none "
        "luks,discard,x-initrd.attach\n"
    )


def test_spinning_disks_are_not_told_what_is_free() -> None:
    assert "discard" not in crypttab(layout(rotational=True))


def test_without_encryption_crypttab_is_empty() -> None:
    assert crypttab(layout(encrypted=False)) == ""


def test_arrays_are_ours_whatever_host_made_them_and_are_watched() -> None:
    text = mdadm_conf(layout()).splitlines()
    assert text == [
        "HOMEHOST <ignore>",
        "MAILADDR root",
        "ARRAY /dev/md/boot metadata=1.0 UUID=00000000:00000000:00000000:000001f5",
        "ARRAY /dev/md/root metadata=1.2 UUID=00000000:00000000:00000000:000001f6",
    ]
    assert mdadm_conf(layout(disks=1)) == ""


@pytest.mark.parametrize(
    ("directory", "path"),
    [("etc/mdadm", "/etc/mdadm/mdadm.conf"), ("etc", "/etc/mdadm.conf")],
)
def test_mdadm_conf_goes_where_this_mdadm_reads_it(
    tmp_path_factory: pytest.TempPathFactory, directory: str, path: str
) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / directory).mkdir(parents=True)
    assert str(place(Tree(root))) == path
