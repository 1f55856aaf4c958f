"""shim and GRUB as Debian and Ubuntu sign and configure them, and what all families share.

Each ESP has its own shim and GRUB, which find /boot by the UUID of its file system: on either half
of the mirror, whose superblock (metadata 1.0) lies at the end and is in nobody's way. Kernels,
initrds and grub.cfg lie there once; the distribution's own hooks keep them when the kernel changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.machine import Target
from agent.payload.contents import Kernel
from agent.target import boot_files, shell_settings, signed
from agent.target.boot import Boot, Copy, Host
from agent.target.contents import Unpacked
from agent.target.needs import Needs
from agent.target.os_release import os_release
from agent.target.package import Piece
from agent.target.tree import TargetFile, Tree

DEFAULTS = "/etc/default/grub.d/90-bedplate.cfg"
TIMEOUT = 900.0
"""Seconds for grub-mkconfig: it probes every device, and that takes its time under emulation."""


@dataclass(frozen=True)
class Grub:
    name: str = "GRUB"

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        del needs
        yield from SIGNED
        yield Piece("grub-mkconfig", "writes its menu", "grub2-common", "grub2-tools")

    def boot(self, tree: Tree, host: Host, kernels: Sequence[Kernel]) -> Boot:
        """Return the small grub.cfg beside GRUB on the ESP, which leads to that of /boot."""
        vendor = signed.debian(tree, host.os).vendor
        places = boot_files.in_boot(tree, host.os, kernels)
        return Boot((), stubs(vendor, host.boot, "/grub"), named(places))

    def settings(self, tree: Tree, host: Host, esp: str) -> tuple[TargetFile, ...]:
        """Return GRUB's defaults, by which it writes its menu now and after every update."""
        del tree, esp
        lines = (shell_settings.assignment(*pair) for pair in defaults(host).items())
        return (TargetFile.text(DEFAULTS, "\n".join(lines) + "\n"),)

    def prepare(self, target: Target, root: Path) -> None:
        """Write the menu of /boot, as the distribution's own hooks will after every update."""
        tree = Tree(root)
        write_menu(target, tree, "grub-mkconfig", "/boot/grub/grub.cfg")

    def loaders(self, tree: Tree) -> tuple[Copy, ...]:
        """Return shim first, which firmware entries name, and what it starts in turn."""
        return signed.debian(tree, os_release(tree)).copies()


SIGNED = (
    Piece("shim", "firmware starts first", "shim-signed", "shim-x64", "shim"),
    Piece(
        "grub-signed",
        "starts it from each disk",
        "grub-efi-amd64-signed",
        "grub2-efi-x64",
        "grub2-x86_64-efi",
    ),
)


def stubs(vendor: str, uuid: str, prefix: str) -> tuple[tuple[str, bytes], ...]:
    """Return the grub.cfg that leads from an ESP to the one in the file system with this UUID.

    Debian's signed GRUB looks for it in its vendor's directory wherever it was started from, SUSE's
    and Fedora's beside itself, so the fallback's directory has it too.
    """
    text = (
        f"search.fs_uuid {uuid} root\nset prefix=($root){prefix}\nconfigfile $prefix/grub.cfg\n"
    ).encode()
    return ((f"EFI/{vendor}/grub.cfg", text), ("EFI/BOOT/grub.cfg", text))


def defaults(host: Host) -> dict[str, str]:
    """Return the variables of /etc/default/grub that a machine depends on."""
    return {
        "GRUB_CMDLINE_LINUX": " ".join(host.options),
        # The distributor's own words (quiet, splash) hide what an operator needs to see.
        "GRUB_CMDLINE_LINUX_DEFAULT": "",
        "GRUB_TIMEOUT": "1",
        "GRUB_TERMINAL": "console",
        "GRUB_DISABLE_OS_PROBER": "true",
        # root= stands in the options; the UUID it would add is that of the same volume.
        "GRUB_DISABLE_LINUX_UUID": "true",
        "GRUB_DISABLE_RECOVERY": "true",
    }


def named(kernels: Sequence[Kernel]) -> tuple[str, ...]:
    return tuple(f"{kernel.image} {kernel.initrd}" for kernel in kernels)


def write_menu(target: Target, tree: Tree, program: str, menu: str) -> None:
    """Run grub-mkconfig over the kernels of /boot; raises `StepError` for one it did not see."""
    kernels = boot_files.provide(tree, os_release(tree), Unpacked(tree).kernels())
    tree.directory(str(Path(menu).parent), 0o755)
    target.run(tree.root, program, "-o", menu, timeout=TIMEOUT)
    text = shell_settings.read(tree, menu)
    for kernel in kernels:
        if "blscfg" not in text and Path(kernel.image).name not in text:
            raise StepError(f"{menu}: {program} wrote it, and it does not start {kernel.image}")
