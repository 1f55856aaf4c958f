"""shim and GRUB as the distribution signs them: Debian, Ubuntu, Fedora, RHEL, SUSE.

Each ESP has its own shim and GRUB, which find /boot by the UUID of its file system: on either half
of the mirror, whose superblock (metadata 1.0) lies at the end and is in nobody's way. Kernels,
initrds and grub.cfg lie there once; the distribution's own hooks keep them when the kernel changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.machine import Target
from agent.payload.contents import Kernel
from agent.target.boot import Boot, Copy, Host
from agent.target.needs import Needs
from agent.target.os_release import OsRelease, os_release
from agent.target.package import Piece
from agent.target.tree import TargetFile, Tree

DEFAULTS = "/etc/default/grub.d/90-bedplate.cfg"
TIMEOUT = 900.0
"""Seconds for grub-mkconfig: it probes every device, and that takes its time under emulation."""
_SHIM = "/usr/lib/shim"
_SIGNED = "/usr/lib/grub"


@dataclass(frozen=True)
class Grub:
    name: str = "GRUB"

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        del needs
        yield Piece("shim", "firmware starts first", "shim-signed", "shim-x64")
        yield Piece(
            "grub-signed", "starts it from each disk", "grub-efi-amd64-signed", "grub2-efi-x64"
        )
        yield Piece("grub-mkconfig", "writes its menu", "grub2-common", "grub2-tools")

    def boot(self, tree: Tree, host: Host, kernels: Sequence[Kernel]) -> Boot:
        """Return the small grub.cfg beside GRUB on the ESP, which leads to that of /boot.

        A signed GRUB looks for it in the directory its distribution built in, wherever it was
        started from.
        """
        del tree
        text = (
            f"search.fs_uuid {host.boot} root\n"
            "set prefix=($root)/grub\n"
            "configfile $prefix/grub.cfg\n"
        )
        names = tuple(f"{kernel.image} {kernel.initrd or ''}".strip() for kernel in kernels)
        return Boot((), ((f"EFI/{_vendor(host.os)}/grub.cfg", text.encode()),), names)

    def settings(self, tree: Tree, host: Host, esp: str) -> tuple[TargetFile, ...]:
        """Return GRUB's defaults, by which it writes its menu now and after every update."""
        del tree, esp
        options = " ".join(host.options)
        if set(options) & set('"$`\\'):
            raise StepError(f"kernel options: {options!r} has a character that GRUB cannot take")
        # The distributor's own words (quiet, splash) hide what an operator needs to see.
        lines = (
            f'GRUB_CMDLINE_LINUX="{options}"',
            'GRUB_CMDLINE_LINUX_DEFAULT=""',
            "GRUB_TIMEOUT=1",
            "GRUB_TERMINAL=console",
            "GRUB_DISABLE_OS_PROBER=true",
            # root= stands in the options; the UUID it would add is that of the same volume.
            "GRUB_DISABLE_LINUX_UUID=true",
            "GRUB_DISABLE_RECOVERY=true",
        )
        return (TargetFile.text(DEFAULTS, "\n".join(lines) + "\n"),)

    def prepare(self, target: Target, root: Path) -> None:
        """Write the menu of /boot, as the distribution's own hooks will after every update."""
        Tree(root).directory("/boot/grub", 0o755)
        target.run(root, "grub-mkconfig", "-o", "/boot/grub/grub.cfg", timeout=TIMEOUT)

    def loaders(self, tree: Tree) -> tuple[Copy, ...]:
        """Return shim first, which firmware entries name, and what it starts in turn.

        The fallback's shim looks for GRUB beside itself (shim's README.fallback).
        """
        shim, machine = _signed(tree, _SHIM, r"shim(\w+)\.efi\.signed")
        grub = self._grub(tree, machine)
        vendor = _vendor_of(tree)
        found = [
            Copy(shim, f"EFI/{vendor}/shim{machine}.efi"),
            Copy(grub, f"EFI/{vendor}/grub{machine}.efi"),
        ]
        manager = f"{_SHIM}/mm{machine}.efi.signed"
        if tree.exists(manager):
            found.append(Copy(manager, f"EFI/{vendor}/mm{machine}.efi"))
            found.append(Copy(manager, f"EFI/BOOT/mm{machine}.efi"))
        found.append(Copy(grub, f"EFI/BOOT/grub{machine}.efi"))
        found.append(Copy(shim, f"EFI/BOOT/BOOT{machine.upper()}.EFI"))
        return tuple(found)

    def _grub(self, tree: Tree, machine: str) -> str:
        for directory in tree.names(_SIGNED):
            path = f"{_SIGNED}/{directory}/grub{machine}.efi.signed"
            if directory.endswith("-efi-signed") and tree.exists(path):
                return path
        raise StepError(f"{_SIGNED}: the image has no signed GRUB for {machine} there")


def _signed(tree: Tree, directory: str, pattern: str) -> tuple[str, str]:
    for name in tree.names(directory):
        match = re.fullmatch(pattern, name)
        if match:
            return f"{directory}/{name}", match[1]
    raise StepError(f"{directory}: the image has no signed shim there")


def _vendor(os: OsRelease) -> str:
    """Return the directory on the ESP that the distribution's signed GRUB looks into."""
    return {"rhel": "redhat", "rocky": "rocky", "almalinux": "almalinux"}.get(os.id, os.id)


def _vendor_of(tree: Tree) -> str:

    return _vendor(os_release(tree))
