"""The dracut family of initrds: Fedora, RHEL, SUSE, and Debian where it was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.machine import Target
from agent.target.needs import Needs
from agent.target.os_release import OsRelease
from agent.target.package import Piece
from agent.target.tree import TargetFile

SETTINGS = "/etc/dracut.conf.d/90-bedplate.conf"
BUILD_TIMEOUT = 3600.0
"""Seconds. A generic initrd takes half a minute on hardware, and ten and more in emulation."""


@dataclass(frozen=True)
class Dracut:
    """Builds initrds that fit any host: what is special to one is on the kernel command line."""

    name: str = "dracut"

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        yield Piece("dracut", "builds its initrd", "dracut", "dracut")
        for module in _modules(needs):
            debian, fedora = _PACKAGES.get(module, ("dracut-core", "dracut"))
            yield Piece(f"dracut/{module}", "puts that into the initrd", debian, fedora)
        if needs.tang:
            yield Piece(
                "dracut/network", "reaches Tang at boot", "dracut-network", "dracut-network"
            )

    def settings(self, needs: Needs) -> TargetFile:
        """Return dracut's configuration, so that initrds of later kernels can boot the machine.

        The name sorts behind the distribution's 50-hostonly.conf, which would leave out what the
        disk that is not there at that moment needs.
        """
        modules = " ".join(_modules(needs))
        return TargetFile.text(SETTINGS, f'hostonly="no"\nadd_dracutmodules+=" {modules} "\n')

    def path(self, version: str, os: OsRelease) -> str:
        return f"/boot/initrd.img-{version}" if os.debian else f"/boot/initramfs-{version}.img"

    def build(self, target: Target, root: Path, version: str, path: str) -> None:
        """Build the initrd of one kernel inside the tree, or raise `CommandError`."""
        target.run(
            root,
            *("dracut", "--force", "--no-hostonly", "--kver", version, path),
            timeout=BUILD_TIMEOUT,
        )


_PACKAGES = {
    "clevis": ("clevis-dracut", "clevis-dracut"),
    "clevis-pin-sss": ("clevis-dracut", "clevis-dracut"),
    "clevis-pin-tang": ("clevis-dracut", "clevis-dracut"),
    "clevis-pin-tpm2": ("clevis-dracut", "clevis-dracut"),
}


def _modules(needs: Needs) -> Iterator[str]:
    yield "lvm"
    if needs.mirror:
        yield "mdraid"
    if needs.encryption:
        yield "crypt"
    if needs.tang or needs.tpm2:
        yield "clevis"
        yield "clevis-pin-sss"
    if needs.tang:
        yield "clevis-pin-tang"
    if needs.tpm2:
        yield "clevis-pin-tpm2"
