"""shim and GRUB as SUSE uses them: a menu that lists the kernels of /boot.

What keeps it: a kernel package runs update-bootloader, which writes grub.cfg anew, where
/etc/sysconfig/bootloader says that there is GRUB; a new GRUB or shim runs shim-install, which
writes to the first ESP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.machine import Target
from agent.payload.contents import Kernel
from agent.target import boot_files, shell_settings, signed
from agent.target.boot import Boot, Copy, Host
from agent.target.grub import SIGNED, defaults, named, stubs, write_menu
from agent.target.needs import Needs
from agent.target.os_release import os_release
from agent.target.package import Piece
from agent.target.tree import TargetFile, Tree

DEFAULTS = "/etc/default/grub"
BOOTLOADER = "/etc/sysconfig/bootloader"


@dataclass(frozen=True)
class GrubSuse:
    name: str = "GRUB as SUSE configures it"

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        del needs
        yield from SIGNED
        yield Piece("grub2-mkconfig", "writes its menu", "grub2-common", "grub2-tools", "grub2")

    def boot(self, tree: Tree, host: Host, kernels: Sequence[Kernel]) -> Boot:
        """Return the small grub.cfg beside GRUB on the ESP, which leads to that of /boot."""
        vendor = signed.suse(tree, host.os).vendor
        places = boot_files.in_boot(tree, host.os, kernels)
        return Boot((), stubs(vendor, host.boot, "/grub2"), named(places))

    def settings(self, tree: Tree, host: Host, esp: str) -> tuple[TargetFile, ...]:
        """Return GRUB's defaults and what tells SUSE's own programs that GRUB starts it."""
        del esp
        # Its newer GRUB can read entries as Fedora's does; this menu then would have nothing in it.
        grub = {**defaults(host), "GRUB_ENABLE_BLSCFG": "false"}
        loader = {"LOADER_TYPE": "grub2-efi", "SECURE_BOOT": "yes"}
        changed = ((DEFAULTS, grub), (BOOTLOADER, loader))
        return tuple(
            TargetFile.text(path, shell_settings.assigned(shell_settings.read(tree, path), values))
            for path, values in changed
        )

    def prepare(self, target: Target, root: Path) -> None:
        """Write the menu of /boot, as update-bootloader will after every update."""
        write_menu(target, Tree(root), "grub2-mkconfig", "/boot/grub2/grub.cfg")

    def loaders(self, tree: Tree) -> tuple[Copy, ...]:
        """Return shim first, which firmware entries name, and what it starts in turn."""
        return signed.suse(tree, os_release(tree)).copies()
