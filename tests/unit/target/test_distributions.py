"""RHEL, Fedora, SUSE and Ubuntu with shim and GRUB, on trees laid out as theirs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import StepError
from agent.machine import Target
from agent.target import shell_settings, signed
from agent.target.boot import Host
from agent.target.boot_loader import BootLoader, boot_loader
from agent.target.contents import Unpacked
from agent.target.dracut import Dracut, initrd_path
from agent.target.family import initrd_builder, problems
from agent.target.grub import Grub
from agent.target.grub_bls import GrubBls
from agent.target.grub_suse import GrubSuse
from agent.target.kit.esp_sync import kit
from agent.target.needs import Needs
from agent.target.os_release import os_release
from agent.target.selinux import relabel_at_first_boot
from agent.target.tree import Tree
from tests.unit.target import distributions
from tests.unit.target.distributions import FEDORA, RED_HAT, SUSE, UBUNTU, fedora, red_hat, suse
from tests.unit.target.sample import MACHINE_ID, layout

ALL = Needs(mirror=True, encryption=True, tang=True, tpm2=True, kind="xfs")
BOOT = "00000000-0000-0000-0000-000000000384"
OPTIONS = ("root=/dev/mapper/vg0-root", "ro", "rd.neednet=1")


class Chroot(Target):
    """Does in the tree what the programs of the image do to the files we look at."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, root: Path, *argv: str, timeout: float = 600) -> str:
        self.ran.append(" ".join(argv))
        if argv[0] == "grub2-editenv":
            (root / argv[1].lstrip("/")).write_text("# GRUB Environment Block\n")
        elif argv[0].endswith("-mkconfig"):
            (root / argv[2].lstrip("/")).write_text(_menu(root))
        return ""


def _menu(root: Path) -> str:
    if (root / "boot/loader/entries").is_dir():
        return "insmod blscfg\nblscfg\n"
    kernels = (p for p in (root / "boot").glob("vmlinuz-*") if not p.is_symlink())
    return "".join(f"linux /{kernel.name}\n" for kernel in kernels)


def host(tree: Tree) -> Host:
    return Host(os_release(tree), MACHINE_ID, OPTIONS, BOOT)


def install(tree: Tree) -> tuple[BootLoader, Chroot]:
    """Do in the tree what the steps do."""
    loader = boot_loader(Unpacked(tree), os_release(tree))
    for file in loader.settings(tree, host(tree), "/boot/efi"):
        tree.write(file)
    target = Chroot()
    loader.prepare(target, tree.root)
    return loader, target


MAKERS: tuple[tuple[Callable[[Path], Tree], type, str], ...] = (
    (red_hat, GrubBls, "redhat"),
    (fedora, GrubBls, "fedora"),
    (suse, GrubSuse, "sles"),
    (distributions.ubuntu, Grub, "ubuntu"),
)


@pytest.mark.parametrize(("make", "kind", "vendor"), MAKERS)
def test_the_tree_says_which_family_it_is_and_lacks_nothing(
    tmp_path: Path, make: Callable[[Path], Tree], kind: type, vendor: str
) -> None:
    tree = make(tmp_path)
    os = os_release(tree)
    assert isinstance(initrd_builder(Unpacked(tree)), Dracut)
    assert isinstance(boot_loader(Unpacked(tree), os), kind)
    assert [p.message for p in problems("image", Unpacked(tree), os, ALL, "x86_64")] == []


@pytest.mark.parametrize(("make", "kind", "vendor"), MAKERS)
def test_firmware_starts_shim_and_shim_finds_grub_and_grub_its_configuration(
    tmp_path: Path, make: Callable[[Path], Tree], kind: type, vendor: str
) -> None:
    tree = make(tmp_path)
    loader, _ = install(tree)
    names = [copy.destination for copy in loader.loaders(tree)]
    grub, shim = ("grub.efi", "shim.efi") if vendor == "sles" else ("grubx64.efi", "shimx64.efi")
    assert names[:2] == [f"EFI/{vendor}/{shim}", f"EFI/{vendor}/{grub}"]
    assert names[-2:] == [f"EFI/BOOT/{grub}", "EFI/BOOT/BOOTX64.EFI"]
    read = {copy.destination: tree.read(copy.source) for copy in loader.loaders(tree)}
    assert read[names[0]] == read[names[-1]] == "shim"
    assert read[names[1]] == read[names[-2]] == "GRUB"
    boot = loader.boot(tree, host(tree), Unpacked(tree).kernels())
    assert boot.paths == (f"EFI/{vendor}/grub.cfg", "EFI/BOOT/grub.cfg")
    prefix = "/grub" if vendor == "ubuntu" else "/grub2"
    for _, text in boot.texts:
        assert f"search.fs_uuid {BOOT} root\nset prefix=($root){prefix}\n" in text.decode()


@pytest.mark.parametrize(("make", "kind", "vendor"), MAKERS)
def test_kernel_and_initrd_are_real_files_of_boot(
    tmp_path: Path, make: Callable[[Path], Tree], kind: type, vendor: str
) -> None:
    tree = make(tmp_path)
    install(tree)
    [kernel] = Unpacked(tree).kernels()
    assert kernel.image == f"/boot/vmlinuz-{kernel.version}"
    assert kernel.initrd == initrd_path(kernel.version, os_release(tree))
    for path in (kernel.image, kernel.initrd):
        assert not tree.is_link(path)
    assert tree.read(kernel.image) == f"kernel {kernel.version}"
    assert tree.read(f"/boot/.vmlinuz-{kernel.version}.hmac").startswith("digest")


@pytest.mark.parametrize("make", [red_hat, fedora])
def test_a_bls_entry_is_what_kernel_install_would_write(
    tmp_path: Path, make: Callable[[Path], Tree]
) -> None:
    tree = make(tmp_path)
    _, target = install(tree)
    version = RED_HAT if make is red_hat else FEDORA
    [name] = tree.names("/boot/loader/entries")
    assert name == f"{MACHINE_ID.hex}-{version}.conf", "those of the image's machine are gone"
    lines = dict(
        line.split(" ", 1) for line in tree.read(f"/boot/loader/entries/{name}").splitlines()
    )
    assert lines["linux"] == f"/vmlinuz-{version}"
    assert lines["initrd"] == f"/initramfs-{version}.img"
    assert lines["options"] == " ".join(OPTIONS)
    assert tree.read("/etc/kernel/cmdline").split() == list(OPTIONS)
    assert target.ran[-1] == "grub2-mkconfig -o /boot/grub2/grub.cfg"
    assert "saved_entry" not in tree.read("/boot/grub2/grubenv")


def test_the_command_line_is_newer_than_grubs_defaults(tmp_path: Path) -> None:
    """Otherwise Fedora's kernel-install would write it anew from them."""
    tree = red_hat(tmp_path)
    install(tree)
    defaults, cmdline = (
        tree.locate(p).stat() for p in ("/etc/default/grub", "/etc/kernel/cmdline")
    )
    assert defaults.st_mtime_ns <= cmdline.st_mtime_ns


def test_grubs_defaults_keep_what_the_image_says_of_itself(tmp_path: Path) -> None:
    tree = red_hat(tmp_path)
    install(tree)
    text = tree.read("/etc/default/grub")
    assert 'GRUB_DISTRIBUTOR="Red Hat"' in text
    assert text.count("GRUB_CMDLINE_LINUX=") == text.count("GRUB_TIMEOUT=") == 1
    assert "crashkernel" not in text
    assert 'GRUB_ENABLE_BLSCFG="true"' in text


def test_a_grubenv_that_is_a_link_to_the_esp_becomes_a_file(tmp_path: Path) -> None:
    """As RHEL 8 has it: written through the link it would lie on one ESP only."""
    tree = red_hat(tmp_path)
    tree.remove("/boot/grub2/grubenv")
    tree.link("/boot/grub2/grubenv", "../efi/EFI/redhat/grubenv")
    install(tree)
    assert not tree.is_link("/boot/grub2/grubenv")


@pytest.mark.parametrize(
    ("id", "vendor"), [("rocky", "rocky"), ("almalinux", "almalinux"), ("ol", "redhat")]
)
def test_the_vendors_directory_is_the_one_its_own_packages_use(
    tmp_path: Path, id: str, vendor: str
) -> None:
    tree = red_hat(tmp_path, id=id, vendor=vendor)
    assert signed.fedora(tree).vendor == vendor


def test_the_newest_shim_of_fedora_is_taken(tmp_path: Path) -> None:
    assert signed.fedora(fedora(tmp_path)).shim.startswith("/usr/lib/efi/shim/16.1-5/")


def test_suses_programs_are_told_that_grub_starts_it(tmp_path: Path) -> None:
    tree = suse(tmp_path)
    _, target = install(tree)
    assert tree.read("/etc/sysconfig/bootloader").splitlines() == [
        'TRUSTED_BOOT="no"',
        'LOADER_TYPE="grub2-efi"',
        'SECURE_BOOT="yes"',
    ]
    assert target.ran == ["grub2-mkconfig -o /boot/grub2/grub.cfg"]
    assert f"vmlinuz-{SUSE}" in tree.read("/boot/grub2/grub.cfg")
    assert "splash" not in tree.read("/etc/default/grub")


@pytest.mark.parametrize(
    ("name", "id", "vendor"),
    [("SLES", "sles", "sles"), ("openSUSE Leap", "opensuse-leap", "opensuse")],
)
def test_the_directory_of_suse_is_the_first_word_of_its_name(
    tmp_path: Path, name: str, id: str, vendor: str
) -> None:
    tree = suse(tmp_path, name=name, id=id)
    assert signed.suse(tree, os_release(tree)).vendor == vendor


def test_ubuntus_shim_is_followed_through_its_alternatives(tmp_path: Path) -> None:
    tree = distributions.ubuntu(tmp_path)
    programs = signed.debian(tree, os_release(tree))
    assert tree.read(programs.shim) == "shim"
    install(tree)
    assert tree.exists(f"/boot/initrd.img-{UBUNTU}")
    [last] = [n for n in tree.names("/etc/default/grub.d") if n == "90-bedplate.cfg"]
    assert last > "50-cloudimg-settings.cfg", "the last one counts"


@pytest.mark.parametrize(
    ("make", "gone", "said"),
    [
        (red_hat, "/boot/efi/EFI/redhat/grubx64.efi", "grub-signed.*grub2-efi-x64"),
        (red_hat, "/usr/bin/grub2-mkconfig", "grub2-mkconfig.*grub2-tools"),
        (suse, "/usr/share/efi/x86_64/grub.efi", "grub-signed.*grub2-x86_64-efi"),
        (suse, "/usr/share/efi/x86_64/shim.efi", "shim.*the package shim"),
        (suse, "/usr/bin/grub2-mkconfig", "grub2-mkconfig.*the package grub2"),
        (suse, "/usr/bin/clevis-decrypt-tang", "clevis-decrypt-tang.*clevis-pin-tang"),
        (suse, "/usr/bin/tpm2_unseal", "tpm2_unseal.*tpm2.0-tools"),
        (distributions.ubuntu, "/usr/sbin/grub-mkconfig", "grub-mkconfig.*grub2-common"),
    ],
)
def test_what_is_missing_is_named_with_that_familys_package(
    tmp_path: Path, make: Callable[[Path], Tree], gone: str, said: str
) -> None:
    tree = make(tmp_path)
    tree.remove(gone)
    found = problems("image", Unpacked(tree), os_release(tree), ALL, "x86_64")
    [message] = [problem.message for problem in found]
    assert re.search(said, message), message


@pytest.mark.parametrize(
    ("make", "gone", "said"),
    [
        (red_hat, "/boot/efi/EFI/redhat/grubx64.efi", "EFI/redhat/grubx64.efi: .* no signed GRUB"),
        (red_hat, "/boot/efi/EFI/redhat/shimx64.efi", "no signed shim"),
        (suse, "/usr/share/efi/x86_64/grub.efi", "/usr/share/efi/x86_64: .* no signed GRUB"),
        (suse, "/usr/share/efi/x86_64/shim.efi", "no signed shim"),
    ],
)
def test_a_loader_that_is_gone_after_all_is_a_named_failure(
    tmp_path: Path, make: Callable[[Path], Tree], gone: str, said: str
) -> None:
    tree = make(tmp_path)
    loader = boot_loader(Unpacked(tree), os_release(tree))
    tree.remove(gone)
    with pytest.raises(StepError, match=said):
        loader.loaders(tree)


@pytest.mark.parametrize("make", [red_hat, fedora, suse, distributions.ubuntu])
def test_a_new_loader_in_the_vendors_directory_is_noticed(
    tmp_path: Path, make: Callable[[Path], Tree]
) -> None:
    tree = make(tmp_path)
    loader = boot_loader(Unpacked(tree), os_release(tree))
    vendor = Path(loader.loaders(tree)[0].destination).parent
    [watch] = [file for file in kit(layout()).files if file.path.suffix == ".path"]
    assert f"PathChanged=/boot/efi/{vendor}\n" in watch.content.decode()


def test_selinux_is_relabelled_at_the_first_boot_where_it_has_a_policy(tmp_path: Path) -> None:
    tree = red_hat(tmp_path)
    assert relabel_at_first_boot(tree)
    assert tree.exists("/.autorelabel")


@pytest.mark.parametrize("value", ['a"b', "a$b", "a`b`", "a\\b", "a\nb"])
def test_a_value_that_a_shell_would_read_otherwise_is_refused(value: str) -> None:
    with pytest.raises(StepError, match="GRUB_CMDLINE_LINUX"):
        shell_settings.assigned("", {"GRUB_CMDLINE_LINUX": value})


def test_an_assignment_replaces_every_earlier_one_and_no_comment() -> None:
    text = "#A=1\nA=2\n  export A=3\nAB=4\n"
    assert shell_settings.assigned(text, {"A": "5"}) == '#A=1\nAB=4\nA="5"\n'
