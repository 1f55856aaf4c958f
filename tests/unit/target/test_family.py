import gzip
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import StepError
from agent.payload import contents
from agent.payload.contents import Kernel
from agent.target.boot import Host
from agent.target.boot_loader import boot_loader
from agent.target.contents import Listed, Unpacked
from agent.target.cpio import names
from agent.target.dracut import Dracut
from agent.target.family import initrd_builder, problems
from agent.target.initrd import builtin_modules, missing
from agent.target.needs import Needs
from agent.target.os_release import OsRelease, os_release
from agent.target.package import Piece
from agent.target.systemd_boot import SystemdBoot
from agent.target.tree import TargetFile
from tests.unit.target.archive import GENERIC, newc
from tests.unit.target.sample import KERNEL, MACHINE_ID, debian

ALL = Needs(mirror=True, encryption=True, tang=True, tpm2=True, kind="xfs")
NOTHING = Needs(mirror=False, encryption=False, tang=False, tpm2=False, kind="ext4")
DEBIAN = OsRelease(id="debian")
SECOND_INITRD = "/etc/kernel/install.d/50-dracut.install"
FEDORA = OsRelease(id="rocky", like=("rhel", "fedora"))
WORDS = {
    "clevis", "clevis-askpass", "clevis-decrypt-sss", "clevis-decrypt-tang",
    "clevis-decrypt-tpm2", "clevis-luks-bind", "cryptsetup", "dracut", "dracut/clevis",
    "dracut/clevis-pin-sss", "dracut/clevis-pin-tang", "dracut/clevis-pin-tpm2", "dracut/crypt",
    "dracut/lvm", "dracut/mdraid", "dracut/network", "lvm", "mdadm", "systemd", "systemd-boot",
    "systemd-cryptsetup", "systemd-networkd", "tpm2_unseal",
}  # fmt: skip


def listed(words: set[str], initrd: str | None = "/boot/initrd.img-1", kernels: int = 1) -> Listed:
    section = contents.Tree(
        members=1,
        directories={},
        programs=dict.fromkeys(sorted(words), "/usr/bin/x"),
        kernels=tuple(
            Kernel(version=str(n), image=f"/boot/vmlinuz-{n}", initrd=initrd)
            for n in range(kernels)
        ),
    )
    return Listed(section)


def messages(found: Listed, needs: Needs = ALL, os: OsRelease = DEBIAN) -> list[str]:
    return [problem.message for problem in problems("debian13", found, os, needs, "x86_64")]


def test_an_image_with_everything_is_taken() -> None:
    assert messages(listed(WORDS)) == []


@pytest.mark.parametrize(
    ("word", "package"),
    [
        ("mdadm", "mdadm"),
        ("lvm", "lvm2"),
        ("clevis-askpass", "clevis-systemd"),
        ("clevis-decrypt-tang", "clevis"),
        ("clevis-decrypt-tpm2", "clevis-tpm2"),
        ("clevis-luks-bind", "clevis-luks"),
        ("dracut/clevis", "clevis-dracut"),
        ("dracut/network", "dracut-network"),
        ("tpm2_unseal", "tpm2-tools"),
        ("systemd-cryptsetup", "systemd-cryptsetup"),
        ("systemd-boot", "systemd-boot-efi"),
        ("systemd-networkd", "systemd"),
    ],
)
def test_each_missing_piece_is_refused_by_name_with_its_package(word: str, package: str) -> None:
    [message] = messages(listed(WORDS - {word}))
    assert message.startswith(f"debian13 has no {word}, which ")
    assert message.endswith(f" the package {package}")


def test_all_that_is_missing_is_named_together() -> None:
    assert len(messages(listed({"systemd", "dracut"}))) == len(WORDS) - 2


def test_a_plain_single_disk_needs_no_clevis_and_no_mdadm() -> None:
    words = {"dracut", "dracut/lvm", "lvm", "systemd", "systemd-boot", "systemd-networkd"}
    assert messages(listed(words), NOTHING) == []


def test_btrfs_and_zram_need_their_programs() -> None:
    needs = replace(NOTHING, btrfs=True, zram=True)
    assert [message.rpartition("package ")[2] for message in messages(listed(WORDS), needs)] == [
        "btrfs-progs",
        "systemd-zram-generator",
    ]
    assert messages(listed({*WORDS, "btrfs", "zram-generator"}), needs) == []


def test_the_package_is_that_of_the_family() -> None:
    [message] = messages(listed(WORDS - {"systemd-boot"}), os=FEDORA)
    assert message.endswith("the package systemd-boot-unsigned")


def test_an_image_without_a_kernel_is_refused() -> None:
    [message] = messages(listed(WORDS, kernels=0))
    assert message == "debian13 has no kernel: build it with the package linux-image-amd64"


def test_an_image_with_an_initrd_may_do_without_dracut() -> None:
    without = {word for word in WORDS if not word.startswith("dracut")}
    assert messages(listed(without)) == []
    [message] = messages(listed(without, initrd=None))
    assert "a kernel without an initrd, and no dracut" in message


TOOLS = {
    "initramfs/clevis", "initramfs/cryptroot", "initramfs/lvm2", "initramfs/mdadm",
    "update-initramfs",
}  # fmt: skip
GRUB = {"grub-mkconfig", "grub-signed", "shim"}
ANOTHER = {w for w in WORDS if not w.startswith(("dracut", "systemd-boot"))} | TOOLS | GRUB


def test_an_image_with_initramfs_tools_and_grub_is_taken() -> None:
    assert messages(listed(ANOTHER, initrd=None)) == []
    assert messages(listed(ANOTHER - {"clevis-askpass", "systemd-cryptsetup"})) == []


@pytest.mark.parametrize(
    ("word", "package"),
    [
        ("initramfs/clevis", "clevis-initramfs"),
        ("initramfs/cryptroot", "cryptsetup-initramfs"),
        ("initramfs/lvm2", "lvm2"),
        ("initramfs/mdadm", "mdadm"),
        ("grub-signed", "grub-efi-amd64-signed"),
        ("grub-mkconfig", "grub2-common"),
        ("shim", "shim-signed"),
    ],
)
def test_each_missing_piece_of_the_other_family_is_refused_by_name(word: str, package: str) -> None:
    [message] = messages(listed(ANOTHER - {word}))
    assert message.startswith(f"debian13 has no {word}, which ")
    assert message.endswith(f" the package {package}")


@pytest.mark.parametrize("word", ["grub-signed", "grub-modules", "grub2-install"])
def test_systemd_boot_wins_where_both_are_there(word: str) -> None:
    assert messages(listed(WORDS | {word})) == []


def test_the_tree_answers_the_same_questions_as_the_manifest(tmp_path: Path) -> None:
    unpacked = Unpacked(debian(tmp_path))
    assert {word for word in WORDS if not unpacked.has(word)} == set()
    assert not unpacked.has("dracut/plymouth")
    assert not unpacked.has("grub-install")
    assert unpacked.kernels() == (Kernel(version=KERNEL, image=f"/boot/vmlinuz-{KERNEL}"),)


def test_a_kernel_below_usr_with_a_fedora_initrd_is_found(tmp_path: Path) -> None:
    modules = tmp_path / "usr/lib/modules/6.11"
    modules.mkdir(parents=True)
    (modules / "vmlinuz").write_text("")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/initramfs-6.11.img").write_text("")
    (tmp_path / "usr/lib/modules/left-over").mkdir()
    tree = Unpacked(replace(debian(tmp_path, kernels=())))
    assert tree.kernels() == (
        Kernel(
            version="6.11",
            image="/usr/lib/modules/6.11/vmlinuz",
            initrd="/boot/initramfs-6.11.img",
        ),
    )


def test_what_the_image_is_called_comes_from_os_release(tmp_path: Path) -> None:
    tree = debian(tmp_path)
    found = os_release(tree)
    assert (found.id, found.name, found.debian) == ("debian", "Debian GNU/Linux 13", True)
    (tmp_path / "etc/os-release").write_text('# x\nID=ubuntu\nID_LIKE="debian x"\nNAME="a\n')
    assert os_release(tree).debian
    assert os_release(tree).name == "Linux"


def test_a_generic_initrd_has_all_that_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(gzip.compress(newc(GENERIC)))
    assert missing(names(path), frozenset(), ALL) == ()


@pytest.mark.parametrize(
    ("gone", "word"),
    [
        ("mdadm", "mdadm"),
        ("clevis-decrypt-tang", "clevis-decrypt-tang"),
        ("systemd-networkd", "systemd-networkd or NetworkManager or nm-run.sh or ifup"),
        ("clevis-luks-askpass", "clevis-luks-askpass"),
        ("raid1.ko", "module raid1"),
        ("dm-crypt.ko", "module dm_crypt"),
        ("xfs.ko", "module xfs"),
    ],
)
def test_what_an_initrd_lacks_is_named(gone: str, word: str) -> None:
    left = frozenset(name for name in GENERIC if gone not in name)
    assert missing(left, frozenset(), ALL) == (word,)


def test_a_module_built_into_the_kernel_is_not_missed(tmp_path: Path) -> None:
    left = frozenset(name for name in GENERIC if "dm-mod" not in name)
    assert missing(left, frozenset(), ALL) == ("module dm_mod",)
    builtin = builtin_modules(debian(tmp_path), KERNEL)
    assert missing(left, builtin, ALL) == ()


def test_an_initrd_made_for_the_disks_of_another_machine_is_not_taken() -> None:
    host_only = frozenset({*GENERIC, "usr/lib/dracut/hostonly-files"})
    [lacking] = missing(host_only, frozenset(), ALL)
    assert "drivers" in lacking


def test_later_initrds_are_generic_too_and_have_every_module() -> None:
    [file] = Dracut().settings(ALL)
    text = file.content.decode()
    assert text == (
        'hostonly="no"\nadd_dracutmodules+=" lvm mdraid crypt clevis clevis-pin-sss '
        'clevis-pin-tang clevis-pin-tpm2 "\n'
    )
    [file] = Dracut().settings(NOTHING)
    assert "clevis" not in file.content.decode()


def test_the_entry_names_what_kernel_install_would_name(tmp_path: Path) -> None:
    tree = debian(tmp_path)
    host = Host(os_release(tree), MACHINE_ID, ("root=/dev/mapper/vg0-root", "ro"))
    kernel = Unpacked(tree).kernels()[0]
    start = SystemdBoot().start(tree, host, kernel, f"/boot/initrd.img-{KERNEL}")
    directory = f"{MACHINE_ID.hex}/{KERNEL}"
    assert start.entry == f"loader/entries/{MACHINE_ID.hex}-{KERNEL}.conf"
    assert start.text.decode() == (
        "title      Debian GNU/Linux 13 (trixie)\n"
        f"version    {KERNEL}\n"
        f"machine-id {MACHINE_ID.hex}\n"
        "sort-key   debian\n"
        "options    root=/dev/mapper/vg0-root ro\n"
        f"linux      /{directory}/linux\n"
        f"initrd     /{directory}/initrd.img-{KERNEL}\n"
    )


def test_kernel_install_writes_to_the_first_esp_and_takes_the_initrd_that_is_there(
    tmp_path: Path,
) -> None:
    tree = debian(tmp_path)
    host = Host(OsRelease(), MACHINE_ID, ("ro",))
    files = {str(f.path): f.content for f in SystemdBoot().settings(tree, host, "/boot/efi")}
    assert files == {
        "/etc/kernel/cmdline": b"ro\n",
        "/etc/kernel/entry-token": f"{MACHINE_ID.hex}\n".encode(),
        "/etc/kernel/install.conf": b"layout=bls\nBOOT_ROOT=/boot/efi\n",
        SECOND_INITRD: files[SECOND_INITRD],
    }


@pytest.mark.parametrize("plugin", ["55-initrd.install", "85-initrd.install", None])
def test_where_a_plugin_hands_over_the_initrd_that_is_there_dracut_builds_no_second(
    tmp_path: Path, plugin: str | None
) -> None:
    """As kernel-install does it: what /etc has in place of a plugin is run, and must succeed."""
    tree = debian(tmp_path)
    tree.remove("/usr/lib/kernel/install.d/55-initrd.install")
    if plugin is not None:
        tree.write(TargetFile.text(f"/usr/lib/kernel/install.d/{plugin}", ""))
    host = Host(OsRelease(), MACHINE_ID, ("ro",))
    for file in SystemdBoot().settings(tree, host, "/boot/efi"):
        tree.write(file)
    instead = tree.locate(SECOND_INITRD)
    assert instead.exists() == (plugin is not None)
    if plugin is not None:
        staging = tmp_path / "staging"
        staging.mkdir()
        argv = [str(instead), "add", KERNEL, "/boot/efi", "/boot/vmlinuz"]
        subprocess.run(argv, check=True, env={"KERNEL_INSTALL_STAGING_AREA": str(staging)})
        assert list(staging.iterdir()) == []
    start = SystemdBoot().start(
        tree, host, Unpacked(tree).kernels()[0], f"/boot/initrd.img-{KERNEL}"
    )
    assert Path(start.initrd.destination).name == (
        f"initrd.img-{KERNEL}" if plugin is not None else "initrd"
    )


def test_a_signed_loader_is_preferred_and_put_in_both_places(tmp_path: Path) -> None:
    tree = debian(tmp_path)
    plain = SystemdBoot().loaders(tree)
    assert [copy.destination for copy in plain] == [
        "EFI/systemd/systemd-bootx64.efi",
        "EFI/BOOT/BOOTX64.EFI",
    ]
    place = tmp_path / "usr/lib/systemd/boot/efi"
    (place / "systemd-bootx64.efi.signed").write_text("MZ signed")
    signed = SystemdBoot().loaders(tree)
    assert {copy.source[-7:] for copy in signed} == {".signed"}
    assert [copy.destination for copy in signed] == [copy.destination for copy in plain]


def test_an_image_without_a_boot_loader_is_a_named_failure(tmp_path: Path) -> None:
    tree = debian(tmp_path)
    tree.remove("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
    with pytest.raises(StepError, match="no boot loader"):
        boot_loader(Unpacked(tree), DEBIAN)
    with pytest.raises(StepError, match="no systemd-boot"):
        SystemdBoot().loaders(tree)


def test_an_image_without_dracut_has_no_builder(tmp_path: Path) -> None:
    tree = debian(tmp_path)
    assert initrd_builder(Unpacked(tree)) is not None
    tree.remove("/usr/bin/dracut")
    assert initrd_builder(Unpacked(tree)) is None


def test_a_piece_that_is_there_is_no_problem() -> None:
    piece = Piece("lvm", "holds its volumes", "lvm2", "lvm2")
    assert piece.problem("x", listed({"lvm"}), DEBIAN) is None
