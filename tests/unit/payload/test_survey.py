"""The survey finds what decides whether an image can work, wherever a distribution keeps it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.payload.contents import Kernel, Tree
from agent.payload.manifest import Os
from agent.payload.survey import Survey, wanted
from agent.payload.tar import TarReader
from tests.unit.payload.images import DEBIAN, files, member, tar_of


def survey(archive: bytes) -> Survey:
    found = Survey()
    reader = TarReader(found.see, wanted)
    reader.feed(archive)
    reader.close()
    return found


def tree(*paths: str) -> Tree:
    return survey(files(dict.fromkeys(paths, b"x"))).tree()


def elf(machine: int, order: bytes = b"\x01") -> bytes:
    name = "little" if order == b"\x01" else "big"
    number = machine.to_bytes(2, name)  # type: ignore[arg-type]
    return b"\x7fELF\x02" + order + bytes(12) + number


@pytest.mark.parametrize(
    ("paths", "kernel"),
    [
        (
            ["boot/vmlinuz-6.12-amd64", "boot/initrd.img-6.12-amd64"],
            Kernel(
                version="6.12-amd64",
                image="/boot/vmlinuz-6.12-amd64",
                initrd="/boot/initrd.img-6.12-amd64",
            ),
        ),
        (
            ["usr/lib/modules/6.8.el9/vmlinuz", "boot/initramfs-6.8.el9.img"],
            Kernel(
                version="6.8.el9",
                image="/usr/lib/modules/6.8.el9/vmlinuz",
                initrd="/boot/initramfs-6.8.el9.img",
            ),
        ),
        (
            ["./boot/vmlinuz-6.4-default", "./boot/initrd-6.4-default"],
            Kernel(
                version="6.4-default",
                image="/boot/vmlinuz-6.4-default",
                initrd="/boot/initrd-6.4-default",
            ),
        ),
        (
            ["lib/modules/6.1/vmlinuz", "usr/lib/modules/6.1/initramfs.img"],
            Kernel(
                version="6.1",
                image="/lib/modules/6.1/vmlinuz",
                initrd="/usr/lib/modules/6.1/initramfs.img",
            ),
        ),
        (["boot/vmlinuz-1"], Kernel(version="1", image="/boot/vmlinuz-1")),
        (
            ["boot/Image-6.4", "boot/vmlinuz", "boot/initrd.img-5.0"],
            Kernel(version="6.4", image="/boot/Image-6.4"),
        ),
    ],
)
def test_kernels_are_found_with_the_initrd_of_their_version(
    paths: list[str], kernel: Kernel
) -> None:
    assert tree(*paths).kernels == (kernel,)


def test_the_kernel_below_usr_is_named_before_its_copy_in_boot() -> None:
    for paths in (
        ["boot/vmlinuz-1", "usr/lib/modules/1/vmlinuz"],
        ["usr/lib/modules/1/vmlinuz", "boot/vmlinuz-1"],
    ):
        assert tree(*paths).kernels[0].image == "/usr/lib/modules/1/vmlinuz"


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("usr/bin/clevis-decrypt-tpm2", "clevis-decrypt-tpm2"),
        ("sbin/mdadm", "mdadm"),
        ("usr/sbin/mdadm", "mdadm"),
        ("usr/bin/mdadm", "mdadm"),
        ("usr/lib/dracut/modules.d/60clevis-pin-tang/module-setup.sh", "dracut/clevis-pin-tang"),
        ("usr/lib/dracut/modules.d/45clevis/module-setup.sh", "dracut/clevis"),
        ("usr/share/initramfs-tools/hooks/clevis", "initramfs/clevis"),
        ("usr/lib/systemd/boot/efi/systemd-bootx64.efi", "systemd-boot"),
        ("usr/lib/systemd/boot/efi/systemd-bootaa64.efi.signed", "systemd-boot-signed"),
        ("usr/lib/systemd/boot/efi/linuxx64.efi.stub", "systemd-stub"),
        ("usr/lib/shim/shimx64.efi.signed", "shim"),
        ("boot/efi/EFI/redhat/shimx64.efi", "shim"),
        ("usr/share/efi/x86_64/shim.efi", "shim"),
        ("usr/lib/efi/shim/15.8/EFI/fedora/shimx64.efi", "shim"),
        ("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "grub-signed"),
        ("boot/efi/EFI/redhat/grubx64.efi", "grub-signed"),
        ("usr/lib/grub/x86_64-efi/modinfo.sh", "grub-modules"),
        ("usr/share/grub2/x86_64-efi/modinfo.sh", "grub-modules"),
        ("etc/selinux/targeted/policy/policy.33", "selinux-policy"),
        ("lib/systemd/system/clevis-luks-askpass.path", "clevis-askpass"),
        ("usr/lib/systemd/systemd-cryptsetup", "systemd-cryptsetup"),
        ("usr/lib/systemd/systemd-resolved", "systemd-resolved"),
        ("usr/sbin/sshd", "sshd"),
        ("usr/lib/systemd/system-generators/zram-generator", "zram-generator"),
        ("usr/bin/btrfs", "btrfs"),
        ("boot/EFI/Linux/debian.efi", "uki"),
        ("efi/EFI/Linux/debian-6.12.efi", "uki"),
        ("usr/lib/modules/6.12/vmlinuz-virt.efi", "uki"),
    ],
)
def test_programs_are_found_where_distributions_put_them(path: str, word: str) -> None:
    assert tree(path).programs == {word: f"/{path}"}


@pytest.mark.parametrize(
    "path",
    [
        "home/me/bin/clevis",
        "usr/share/doc/clevis",
        "usr/bin/clevis-other",
        "usr/lib/dracut/modules.d/60clevis",
        "usr/lib/dracut/modules.d/99custom/module-setup.sh",
        "opt/usr/sbin/mdadm",
        "usr/src/boot/vmlinuz-1",
    ],
)
def test_what_only_looks_like_a_program_is_none(path: str) -> None:
    found = tree(path)
    assert (found.programs, found.kernels) == ({}, ())


def test_a_directory_with_the_name_of_a_program_is_none() -> None:
    headers = [member("usr/bin/mdadm", type=b"5"), member("boot/vmlinuz-1", type=b"5")]
    found = survey(tar_of((header, b"") for header in headers)).tree()
    assert (found.programs, found.kernels) == ({}, ())


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"usr/lib/os-release": DEBIAN}, Os(id="debian", version="13")),
        ({"etc/os-release": b"ID=rhel\n", "usr/lib/os-release": DEBIAN}, Os(id="rhel")),
        (
            {"etc/os-release": b'ID=\'rocky\'\nVERSION_ID="9.5"\nID_LIKE="rhel centos fedora"\n'},
            Os(id="rocky", version="9.5", like=("rhel", "centos", "fedora")),
        ),
        ({"etc/os-release": b"# a comment\nNAME=x\nID=arch\nBROKEN='\n"}, Os(id="arch")),
        ({"etc/os-release": b"ID=two words\n"}, Os(id="linux")),
        ({"etc/os-release": b"NAME=x\n"}, Os(id="linux")),
        ({"etc/os-release": b"ID='Not A Name'\n"}, None),
        ({"etc/passwd": b"root"}, None),
    ],
)
def test_the_system_is_read_from_os_release(
    contents: Mapping[str, bytes], expected: Os | None
) -> None:
    assert survey(files(contents)).os() == expected


def test_a_link_called_os_release_is_not_read() -> None:
    headers = [
        (member("etc/os-release", type=b"2", linkname="../usr/lib/os-release"), b""),
        (member("usr/lib/os-release", DEBIAN), DEBIAN),
    ]
    assert survey(tar_of(headers)).os() == Os(id="debian", version="13")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (elf(62), "x86_64"),
        (elf(183), "aarch64"),
        (elf(22, b"\x02"), "s390x"),
        (elf(8), "ELF machine 8"),
        (b"#!/bin/sh\n", None),
        (b"", None),
    ],
)
def test_the_architecture_is_that_of_the_programs(content: bytes, expected: str | None) -> None:
    assert survey(files({"usr/bin/bash": content})).tree().architecture == expected


def test_directories_count_all_below_them_in_blocks_and_small_ones_are_left_out() -> None:
    found = survey(
        files(
            {
                "var/lib/pgsql/data/base": bytes(100_001),
                "var/lib/small": bytes(10),
                "etc/hosts": bytes(1),
                "usr/big": bytes(65_536),
            }
        )
    ).tree()
    assert {path: (need.bytes, need.inodes) for path, need in found.directories.items()} == {
        "/": (102_400 + 4096 + 4096 + 65_536, 4),
        "/usr": (65_536, 1),
        "/var": (102_400 + 4096, 2),
        "/var/lib": (102_400 + 4096, 2),
        "/var/lib/pgsql": (102_400, 1),
    }
    assert found.members == 4


def test_hard_links_cost_nothing_and_those_across_directories_are_told() -> None:
    headers = [
        (member("usr/bin/git", bytes(70_000)), bytes(70_000)),
        (member("usr/bin/git-link", type=b"1", linkname="usr/bin/git"), b""),
        (member("usr/lib/git-core/git", type=b"1", linkname="./usr/bin/git"), b""),
    ]
    found = survey(tar_of(headers)).tree()
    assert found.directories["/"].bytes == 73_728
    assert found.directories["/"].inodes == 1
    assert found.links == (("/usr/bin", "/usr/lib/git-core"),)


def test_the_newest_member_dates_the_image() -> None:
    headers = [(member("a", mtime=5), b""), (member("b", mtime=9.75), b""), (member("c"), b"")]
    assert survey(tar_of(headers[:2])).newest == 9
    assert survey(tar_of(headers)).newest == 1_700_000_000
