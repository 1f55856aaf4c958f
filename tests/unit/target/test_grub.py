"""Targets with initramfs-tools, shim and GRUB, as Debian and Ubuntu lay them out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.errors import StepError
from agent.machine import Target
from agent.payload.contents import Kernel
from agent.plan.configure import Configure
from agent.target.boot import Host
from agent.target.boot_loader import boot_loader
from agent.target.contents import Unpacked
from agent.target.crypttab import crypttab
from agent.target.family import initrd_builder
from agent.target.grub import Grub
from agent.target.initramfs_tools import InitramfsTools
from agent.target.kernel_options import kernel_options
from agent.target.needs import Needs
from agent.target.os_release import os_release
from agent.target.tree import Tree
from tests.unit.target.sample import KERNEL, MACHINE_ID, debian, layout

ALL = Needs(mirror=True, encryption=True, tang=True, tpm2=True, kind="xfs")
BOOT = "00000000-0000-0000-0000-000000000384"
MAC = "52:54:00:12:34:56"
FILES = (
    "usr/lib/shim/shimx64.efi.signed",
    "usr/lib/shim/mmx64.efi.signed",
    "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    "usr/sbin/grub-mkconfig",
    "usr/sbin/update-initramfs",
    *(f"usr/share/initramfs-tools/hooks/{name}" for name in ("clevis", "cryptroot", "lvm2")),
)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a Debian as its installer leaves it."""
    tree = debian(tmp_path)
    for path in ("/usr/bin/dracut", "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"):
        tree.remove(path)
    for name in FILES:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}")
    return tree


@pytest.fixture
def host(tree: Tree) -> Host:
    return Host(os_release(tree), MACHINE_ID, ("root=/dev/mapper/vg0-root", "ro"), BOOT)


class Noting(Target):
    """Notes which programs were run in the tree; grub-mkconfig writes a menu of what it sees."""

    def __init__(self, menu: str = "linux /{}\n") -> None:
        self.ran: list[tuple[str, ...]] = []
        self.menu = menu

    def run(self, root: Path, *argv: str, timeout: float = 600) -> str:
        self.ran.append(argv)
        if argv[0].endswith("-mkconfig"):
            kernels = sorted((root / "boot").glob("vmlinuz-*"))
            place = root / argv[-1].lstrip("/")
            place.write_text("".join(self.menu.format(kernel.name) for kernel in kernels))
        return ""


def test_the_tree_says_which_family_it_is(tree: Tree) -> None:
    unpacked = Unpacked(tree)
    assert isinstance(initrd_builder(unpacked), InitramfsTools)
    assert isinstance(boot_loader(unpacked, os_release(tree)), Grub)
    assert unpacked.has("initramfs/clevis")
    assert not unpacked.has("initramfs/mdadm")
    assert unpacked.has("shim")
    tree.remove("/usr/lib/shim/shimx64.efi.signed")
    tree.remove("/usr/lib/shim/mmx64.efi.signed")
    assert not unpacked.has("shim")


def test_firmware_starts_shim_and_shim_finds_grub_beside_itself(tree: Tree) -> None:
    copies = Grub().loaders(tree)
    assert [copy.destination for copy in copies] == [
        "EFI/debian/shimx64.efi",
        "EFI/debian/grubx64.efi",
        "EFI/debian/mmx64.efi",
        "EFI/BOOT/mmx64.efi",
        "EFI/BOOT/grubx64.efi",
        "EFI/BOOT/BOOTX64.EFI",
    ]
    assert copies[-1].source == "/usr/lib/shim/shimx64.efi.signed"
    assert all(tree.exists(copy.source) for copy in copies)


def test_the_esp_leads_to_boot_by_its_uuid_and_holds_no_kernel(tree: Tree, host: Host) -> None:
    kernel = Kernel(version=KERNEL, image=f"/boot/vmlinuz-{KERNEL}", initrd="/boot/initrd")
    boot = Grub().boot(tree, host, [kernel])
    assert boot.copies == ()
    assert boot.paths == ("EFI/debian/grub.cfg", "EFI/BOOT/grub.cfg")
    for _, text in boot.texts:
        assert f"search.fs_uuid {BOOT} root" in text.decode()
        assert "set prefix=($root)/grub\n" in text.decode()
        assert "configfile $prefix/grub.cfg" in text.decode()


def test_the_menu_is_written_by_the_distributions_own_program(
    tree: Tree, host: Host, tmp_path: Path
) -> None:
    [file] = Grub().settings(tree, host, "/boot/efi")
    assert str(file.path) == "/etc/default/grub.d/90-bedplate.cfg"
    assert 'GRUB_CMDLINE_LINUX="root=/dev/mapper/vg0-root ro"' in file.content.decode()
    (tmp_path / f"boot/initrd.img-{KERNEL}").write_text("initrd")
    target = Noting()
    Grub().prepare(target, tmp_path)
    assert target.ran == [("grub-mkconfig", "-o", "/boot/grub/grub.cfg")]
    with pytest.raises(StepError, match=rf"does not start /boot/vmlinuz-{KERNEL}"):
        Grub().prepare(Noting(menu=""), tmp_path)


@pytest.mark.parametrize("option", ['a"b', "a$b", "a`b`", "a\\b"])
def test_an_option_that_would_end_grubs_string_is_refused(tree: Tree, option: str) -> None:
    host = Host(os_release(tree), MACHINE_ID, (option,), BOOT)
    with pytest.raises(StepError, match=r"GRUB_CMDLINE_LINUX: .* has a character"):
        Grub().settings(tree, host, "/boot/efi")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/usr/lib/shim/shimx64.efi.signed", "no signed shim"),
        ("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "no signed GRUB for x64"),
    ],
)
def test_a_loader_that_is_not_signed_is_a_named_failure(
    tree: Tree, path: str, message: str
) -> None:
    tree.remove(path)
    with pytest.raises(StepError, match=message):
        Grub().loaders(tree)


def test_each_host_builds_its_own_initrd_with_what_it_unlocks() -> None:
    builder = InitramfsTools()
    assert not builder.generic
    assert crypttab(layout(), builder.crypttab_options).endswith(",x-initrd.attach,initramfs\n")
    target = Noting()
    builder.build(target, Path("/x"), KERNEL, f"/boot/initrd.img-{KERNEL}")
    assert target.ran == [("update-initramfs", "-c", "-k", KERNEL)]
    settings, _ = builder.settings(ALL)
    assert "MODULES=most" in settings.content.decode()


def test_a_lost_disk_is_waited_for_without_a_sleep_at_every_start(tmp_path: Path) -> None:
    """`rootdelay=` is both in initramfs-tools: what is slept, and what is left afterwards."""
    assert not any("rootdelay" in option for option in InitramfsTools().kernel_options(layout()))
    _, file = InitramfsTools().settings(ALL)
    assert file.mode == 0o755
    place = tmp_path / "param.conf"
    script = file.content.decode().replace("/conf/param.conf", str(place))
    for argument in ("prereqs", ""):
        assert not place.exists()
        ran = subprocess.run(
            ["sh", "-c", script, "bedplate", argument], check=True, capture_output=True
        )
        assert not ran.stdout
    assert place.read_text() == "ROOTDELAY=60\n"


GOOD = frozenset(
    {
        "usr/bin/clevis", "usr/bin/clevis-decrypt-sss", "usr/bin/clevis-decrypt-tang",
        "usr/bin/clevis-decrypt-tpm2", "usr/bin/tpm2_unseal", "usr/sbin/cryptsetup",
        "usr/sbin/lvm", "usr/sbin/mdadm", "cryptroot/crypttab", "scripts/local-top/clevis",
        "scripts/init-premount/bedplate",
        *(f"usr/lib/modules/1/{m}.ko.xz" for m in ("dm-mod", "dm-crypt", "raid1", "xfs")),
    }
)  # fmt: skip


def test_an_initrd_with_everything_lacks_nothing() -> None:
    assert InitramfsTools().lacks(GOOD, frozenset(), ALL) == ()


@pytest.mark.parametrize("path", sorted(GOOD - {"usr/bin/clevis"}))
def test_whatever_an_initrd_lacks_is_named(path: str) -> None:
    [lacking] = InitramfsTools().lacks(GOOD - {path}, frozenset(), ALL)
    word = Path(path).name.removesuffix(".ko.xz").replace("dm-mod", "dm_mod")
    assert word.replace("dm-crypt", "dm_crypt") in lacking


def network(given: object) -> tuple[str, ...]:
    interfaces = Configure.model_validate({"network": given}).network
    return InitramfsTools().network_options(interfaces, {MAC: "enp1s0"})


def test_the_network_of_the_initrd_is_one_interface() -> None:
    assert network({"dhcp": True}) == ("ip=::::::dhcp",), "six colons: Clevis reads the sixth field"
    assert network({"match": {"mac": MAC}, "dhcp": True}) == ("ip=:::::enp1s0:dhcp",)
    static = {"match": {"mac": MAC}, "addresses": ["10.0.0.5/24"], "gateway": "10.0.0.1"}
    assert network(static) == ("ip=10.0.0.5::10.0.0.1:255.255.255.0::enp1s0:none",)
    other = {"match": {"name": "eth1"}, "dhcp": True}
    assert network([other, static]) == network(static), "a fixed address is preferred"


def test_the_command_line_has_nothing_of_dracut() -> None:
    options = kernel_options(InitramfsTools().kernel_options(layout()), MACHINE_ID, (), ("quiet",))
    assert options[:2] == ("root=/dev/mapper/vg0-root", "ro")
    assert not [option for option in options if option.startswith("rd.")]
    assert options[-1] == "quiet"
