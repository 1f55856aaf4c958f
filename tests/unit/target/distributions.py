"""Trees laid out as the packages of other distributions leave them.

Where their files lie: Fedora's and RHEL's shim-x64 and grub2-efi-x64 (in /boot/efi, lately in
/usr/lib/efi), SUSE's shim and grub2-x86_64-efi (in /usr/share/efi), Ubuntu's shim-signed (chosen by
alternatives).
"""

from __future__ import annotations

from pathlib import Path

from agent.target.tree import Tree
from tests.unit.target.sample import PROGRAMS

RED_HAT = "5.14.0-570.el9.x86_64"
FEDORA = "6.17.7-300.fc43.x86_64"
SUSE = "6.4.0-150600.23-default"
UBUNTU = "6.8.0-60-generic"


def build(root: Path, files: dict[str, str]) -> Tree:
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return Tree(root)


def _common(version: str) -> dict[str, str]:
    modules = ("clevis", "clevis-pin-sss", "clevis-pin-tang", "clevis-pin-tpm2", "crypt", "lvm")
    return {
        **{f"usr/bin/{name}": "" for name in (*PROGRAMS, "grub2-mkconfig", "grub2-editenv")},
        **{
            f"usr/lib/dracut/modules.d/90{name}/module-setup.sh": ""
            for name in (*modules, "mdraid", "network")
        },
        "usr/lib/systemd/systemd": "",
        "usr/lib/systemd/systemd-networkd": "",
        "usr/lib/systemd/systemd-cryptsetup": "",
        "usr/lib/systemd/system/clevis-luks-askpass.path": "",
        f"usr/lib/modules/{version}/vmlinuz": f"kernel {version}",
        f"usr/lib/modules/{version}/.vmlinuz.hmac": "digest  /boot/vmlinuz",
        "etc/machine-id": "22222222222242228222222222222222\n",
    }


def red_hat(root: Path, *, id: str = "rhel", vendor: str = "redhat") -> Tree:
    """Make a RHEL 9, or what is made from it: loaders below /boot/efi, leftovers of its builder."""
    esp = f"boot/efi/EFI/{vendor}"
    version = RED_HAT
    return build(
        root,
        {
            **_common(version),
            "etc/os-release": f'ID={id}\nID_LIKE="rhel centos fedora"\nNAME="Red Hat"\n'
            'VERSION_ID="9.6"\nPRETTY_NAME="Red Hat Enterprise Linux 9.6 (Plow)"\n',
            f"{esp}/shimx64.efi": "shim",
            f"{esp}/shimx64-{vendor}.efi": "shim without Microsoft's signature",
            f"{esp}/shim.efi": "shim",
            f"{esp}/mmx64.efi": "MokManager",
            f"{esp}/grubx64.efi": "GRUB",
            f"{esp}/BOOTX64.CSV": "",
            "boot/efi/EFI/BOOT/BOOTX64.EFI": "shim",
            "boot/efi/EFI/BOOT/fbx64.efi": "fallback",
            f"boot/vmlinuz-{version}": f"kernel {version}",
            f"boot/initramfs-{version}.img": "initrd",
            f"boot/loader/entries/ffffffffffffffffffffffffffffffff-{version}.conf": "of the image",
            "boot/grub2/grubenv": "# GRUB Environment Block\nsaved_entry=of-the-image\n",
            "etc/default/grub": 'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX="crashkernel=auto rhgb"\n'
            'GRUB_DISTRIBUTOR="Red Hat"\n',
            "etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n",
        },
    )


def fedora(root: Path) -> Tree:
    """Make a Fedora 43: loaders below /usr/lib/efi, in two versions of shim."""
    version = FEDORA
    return build(
        root,
        {
            **_common(version),
            "etc/os-release": 'ID=fedora\nNAME="Fedora Linux"\nVERSION_ID=43\n'
            'PRETTY_NAME="Fedora Linux 43 (Server Edition)"\n',
            "usr/lib/efi/shim/15.8-3/EFI/fedora/shimx64.efi": "old shim",
            "usr/lib/efi/shim/16.1-5/EFI/fedora/shimx64.efi": "shim",
            "usr/lib/efi/shim/16.1-5/EFI/fedora/mmx64.efi": "MokManager",
            "usr/lib/efi/shim/16.1-5/EFI/BOOT/BOOTX64.EFI": "shim",
            "usr/lib/efi/grub2/1:2.12-40.fc43/EFI/fedora/grubx64.efi": "GRUB",
            f"usr/lib/modules/{version}/initramfs.img": "initrd",
        },
    )


def suse(root: Path, *, name: str = "SLES", id: str = "sles") -> Tree:
    """Make a SUSE: its kernel in /boot is a link, because the image had one file system."""
    version = SUSE
    tree = build(
        root,
        {
            **_common(version),
            "etc/os-release": f'ID="{id}"\nID_LIKE="suse"\nNAME="{name}"\nVERSION_ID="15.6"\n'
            f'PRETTY_NAME="{name} 15 SP6"\n',
            "usr/share/efi/x86_64/shim.efi": "shim",
            "usr/share/efi/x86_64/grub.efi": "GRUB",
            "usr/share/efi/x86_64/MokManager.efi": "MokManager",
            "usr/share/efi/x86_64/fallback.efi": "fallback",
            f"boot/initrd-{version}": "initrd",
            "etc/default/grub": 'GRUB_DISTRIBUTOR=\nGRUB_CMDLINE_LINUX_DEFAULT="splash=silent"\n',
            "etc/sysconfig/bootloader": 'LOADER_TYPE=""\nTRUSTED_BOOT="no"\n',
        },
    )
    tree.link(f"/boot/vmlinuz-{version}", f"../usr/lib/modules/{version}/vmlinuz")
    tree.link("/boot/vmlinuz", f"vmlinuz-{version}")
    return tree


def ubuntu(root: Path) -> Tree:
    """Make an Ubuntu with dracut, as it is from 25.10 on; its shim is chosen by alternatives."""
    version = UBUNTU
    tree = build(
        root,
        {
            **_common(version),
            "etc/os-release": 'ID=ubuntu\nID_LIKE=debian\nNAME="Ubuntu"\nVERSION_ID="25.10"\n'
            'PRETTY_NAME="Ubuntu 25.10"\n',
            "usr/lib/shim/shimx64.efi.signed.latest": "shim",
            "usr/lib/shim/shimx64.efi.signed.previous": "old shim",
            "usr/lib/shim/mmx64.efi": "MokManager",
            "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "GRUB",
            "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed": "GRUB for CDs",
            "usr/sbin/grub-mkconfig": "",
            f"boot/vmlinuz-{version}": f"kernel {version}",
            f"boot/initrd.img-{version}": "initrd",
            "etc/default/grub.d/50-cloudimg-settings.cfg": "GRUB_TIMEOUT=0\n",
        },
    )
    tree.remove("/usr/bin/grub2-mkconfig")
    tree.link("/usr/lib/shim/shimx64.efi.signed", "/etc/alternatives/shimx64.efi.signed")
    tree.link("/etc/alternatives/shimx64.efi.signed", "/usr/lib/shim/shimx64.efi.signed.latest")
    return tree
