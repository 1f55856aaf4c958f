"""Choose how an image boots, by what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from agent.errors import StepError
from agent.machine import Target
from agent.payload.contents import Kernel
from agent.target.boot import Boot, Copy, Host
from agent.target.contents import Contents
from agent.target.grub import Grub
from agent.target.grub_bls import GrubBls
from agent.target.grub_suse import GrubSuse
from agent.target.needs import Needs
from agent.target.os_release import OsRelease
from agent.target.package import Piece
from agent.target.systemd_boot import SystemdBoot
from agent.target.tree import TargetFile, Tree


class BootLoader(Protocol):
    @property
    def name(self) -> str: ...
    def pieces(self, needs: Needs) -> Iterator[Piece]: ...
    def boot(self, tree: Tree, host: Host, kernels: Sequence[Kernel]) -> Boot:
        """Return what lies on each ESP; raises `StepError` for a kernel without an initrd."""

    def settings(self, tree: Tree, host: Host, esp: str) -> tuple[TargetFile, ...]:
        """Return the configuration by which the installed system adds later kernels alike."""

    def prepare(self, target: Target, root: Path) -> None:
        """Run what the loader needs in the installed system, when its settings are there."""

    def loaders(self, tree: Tree) -> tuple[Copy, ...]:
        """Return the EFI programs; the first is what a firmware entry names.

        They may lie below the mount point of an ESP (RHEL): read them before that is mounted.
        """


def boot_loader(contents: Contents, os: OsRelease) -> BootLoader:
    """Return what starts this image, or raise `StepError`."""
    found = supported(contents, os)
    if found is None:
        raise StepError(
            "the image has no boot loader that is supported: systemd-boot, shim and GRUB"
        )
    return found


def supported(contents: Contents, os: OsRelease) -> BootLoader | None:
    """Return what starts this image or would with more packages, None where there is no sign of it.

    systemd-boot where it is there: an image that is to start by GRUB need not have it.
    """
    if contents.has("systemd-boot"):
        return SystemdBoot()
    if not any(contents.has(word) for word in _GRUB):
        return None
    if os.debian:
        return Grub()
    if os.suse:
        return GrubSuse()
    return Grub() if contents.has("grub-mkconfig") else GrubBls()


_GRUB = ("grub-signed", "shim", "grub-modules", "grub-install", "grub2-install")
