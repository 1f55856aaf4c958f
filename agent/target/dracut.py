"""The dracut family of initrds: Fedora, RHEL, SUSE, and Debian where it was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.layout.model import Layout
from agent.machine import Target
from agent.plan.network import Interface
from agent.target.initrd import missing
from agent.target.initrd_network import initrd_network
from agent.target.kernel_options import root_options
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
    generic: bool = True
    """Whether an initrd that the image brings can fit any host."""
    crypttab_options: tuple[str, ...] = ()
    unneeded: frozenset[str] = frozenset()

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        yield Piece("dracut", "builds its initrd", "dracut", "dracut")
        for module in _modules(needs):
            debian, fedora = _PACKAGES.get(module, ("dracut-core", "dracut"))
            yield Piece(f"dracut/{module}", "puts that into the initrd", debian, fedora)
        if needs.tang:
            yield Piece(
                "dracut/network", "reaches Tang at boot", "dracut-network", "dracut-network"
            )

    def settings(self, needs: Needs) -> tuple[TargetFile, ...]:
        """Return dracut's configuration, so that initrds of later kernels can boot the machine.

        The name sorts behind the distribution's 50-hostonly.conf, which would leave out what the
        disk that is not there at that moment needs.
        """
        modules = " ".join(_modules(needs))
        text = f'hostonly="no"\nadd_dracutmodules+=" {modules} "\n'
        if needs.links:
            text += f'add_drivers+=" {" ".join(needs.link_modules)} "\n'
        if needs.link_files:
            # On the command line systemd-network-generator(8) takes the ports of a bond, and not
            # its mode.
            text += f'install_items+=" {" ".join(needs.link_files)} "\n'
        return (TargetFile.text(SETTINGS, text),)

    def path(self, version: str, os: OsRelease) -> str:
        return initrd_path(version, os)

    def build(self, target: Target, root: Path, version: str, path: str) -> None:
        """Build the initrd of one kernel inside the tree, or raise `CommandError`."""
        target.run(
            root,
            *("dracut", "--force", "--no-hostonly", "--kver", version, path),
            timeout=BUILD_TIMEOUT,
        )

    def lacks(
        self, names: frozenset[str], builtin: frozenset[str], needs: Needs
    ) -> tuple[str, ...]:
        """Return what an initrd lacks, in words for a message."""
        lacking = missing(names, builtin, needs)
        if any(path.lstrip("/") not in names for path in needs.link_files):
            lacking += (f"the network of the plan: {', '.join(needs.links)}",)
        return lacking

    def kernel_options(self, layout: Layout) -> Iterator[str]:
        """Yield how / is found and what must be opened on the way."""
        return root_options(layout)

    def network_options(
        self, network: Sequence[Interface], names: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Return what brings up the network before Tang is asked."""
        return initrd_network(network, names)


def initrd_path(version: str, os: OsRelease) -> str:
    """Return where the distribution's own hooks put the initrd of a kernel."""
    if os.debian:
        return f"/boot/initrd.img-{version}"
    return f"/boot/initrd-{version}" if os.suse else f"/boot/initramfs-{version}.img"


_PACKAGES = {
    "clevis": ("clevis-dracut", "clevis-dracut"),
    "clevis-pin-sss": ("clevis-dracut", "clevis-dracut"),
    "clevis-pin-tang": ("clevis-dracut", "clevis-dracut"),
    "clevis-pin-tpm2": ("clevis-dracut", "clevis-dracut"),
}


def _modules(needs: Needs) -> Iterator[str]:
    yield "lvm"
    if needs.fips:
        yield "fips"
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
