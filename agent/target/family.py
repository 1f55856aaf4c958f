"""Choose how an image builds its initrd, by what is in it; refuse by name what cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from agent.errors import Problem
from agent.layout.model import Layout
from agent.machine import Target
from agent.plan.network import Interface
from agent.target.boot_loader import supported
from agent.target.contents import Contents
from agent.target.dracut import Dracut
from agent.target.initramfs_tools import InitramfsTools
from agent.target.needs import Needs
from agent.target.os_release import OsRelease
from agent.target.package import Piece
from agent.target.systemd_boot import SystemdBoot
from agent.target.tree import TargetFile


class InitrdBuilder(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def generic(self) -> bool:
        """Whether an initrd that the image brings can fit any host."""

    @property
    def crypttab_options(self) -> tuple[str, ...]: ...
    @property
    def unneeded(self) -> frozenset[str]:
        """Words of pieces that other families need at boot and this one does not."""

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        """Yield what the image must have for it."""

    def lacks(
        self, names: frozenset[str], builtin: frozenset[str], needs: Needs
    ) -> tuple[str, ...]:
        """Return what an initrd lacks to start the machine, in words for a message."""

    def kernel_options(self, layout: Layout) -> Iterator[str]:
        """Yield how its initrd finds /."""

    def network_options(
        self, network: Sequence[Interface], names: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Return how its initrd reaches Tang; `names` maps MACs of this machine to names."""

    def settings(self, needs: Needs) -> tuple[TargetFile, ...]:
        """Return the configuration by which the installed system builds later ones alike."""

    def path(self, version: str, os: OsRelease) -> str:
        """Return where the initrd of a kernel lies in the installed system."""

    def build(self, target: Target, root: Path, version: str, path: str) -> None: ...


def initrd_builder(contents: Contents) -> InitrdBuilder | None:
    """Return what builds initrds in this image, None where it has nothing that is supported."""
    if contents.has("dracut"):
        return Dracut()
    return InitramfsTools() if contents.has("update-initramfs") else None


def problems(
    image: str, contents: Contents, os: OsRelease, needs: Needs, architecture: str
) -> Iterator[Problem]:
    """Yield every reason why the image cannot work on this layout; `image` is its name.

    `architecture` is this machine's, as `uname -m` says it.
    """
    if not contents.kernels():
        debian = f"linux-image-{_DEBIAN.get(architecture, architecture)}"
        package = Piece("kernel", "", debian, "kernel-core", "kernel-default").package(os)
        lacks, remedy = "has no kernel", f"build it with the package {package}"
        if contents.has("uki"):
            lacks = "has its kernel in a unified kernel image only, whose command line cannot be"
            lacks += " each host's"
            remedy = "leave /usr/lib/modules/VERSION/vmlinuz in it"
        yield Problem("image.manifest", f"{image} {lacks}: {remedy}")
    yield from _initrd_problems(image, contents, os, needs)
    yield from _loader_problems(image, contents, os, needs)
    builder = initrd_builder(contents)
    unneeded = builder.unneeded if builder is not None else frozenset()
    if needs.encrypted_data:  # opened by the running system, in every family by systemd's units
        unneeded = frozenset()
    if contents.has("NetworkManager"):
        unneeded |= {"systemd-networkd"}
    for piece in _pieces(needs):
        if piece.word in unneeded:
            continue
        problem = piece.problem(image, contents, os)
        if problem:
            yield problem


_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}


def _initrd_problems(
    image: str, contents: Contents, os: OsRelease, needs: Needs
) -> Iterator[Problem]:
    builder = initrd_builder(contents)
    if builder is not None:
        found = (piece.problem(image, contents, os) for piece in builder.pieces(needs))
        yield from (problem for problem in found if problem)
    elif any(kernel.initrd is None for kernel in contents.kernels()) and not contents.has("uki"):
        yield Problem(
            "image.manifest",
            f"{image} has a kernel without an initrd, and no dracut to build one: build it with "
            "the package dracut",
        )


def _loader_problems(
    image: str, contents: Contents, os: OsRelease, needs: Needs
) -> Iterator[Problem]:
    loader = supported(contents, os) or SystemdBoot()
    found = (piece.problem(image, contents, os) for piece in loader.pieces(needs))
    yield from (problem for problem in found if problem)


def _pieces(needs: Needs) -> Iterator[Piece]:
    yield Piece("systemd", "runs it", "systemd-sysv", "systemd")
    yield Piece("systemd-networkd", "carries out configure.network", "systemd", "systemd-networkd")
    yield Piece("lvm", "holds its volumes", "lvm2", "lvm2")
    if needs.mirror:
        yield Piece("mdadm", "assembles the mirror of disks.count", "mdadm", "mdadm")
    elif needs.arrays:
        yield Piece("mdadm", "assembles the arrays of storage.data", "mdadm", "mdadm")
    if needs.btrfs:
        yield Piece(
            "btrfs", "looks after its btrfs volumes", "btrfs-progs", "btrfs-progs", "btrfsprogs"
        )
    if needs.zram:
        yield Piece(
            "zram-generator",
            "makes the swap of storage.zram",
            "systemd-zram-generator",
            "zram-generator",
        )
    if needs.encryption:
        yield Piece("cryptsetup", "opens the encrypted root", "cryptsetup-bin", "cryptsetup")
        yield Piece(
            "systemd-cryptsetup", "opens the encrypted root", "systemd-cryptsetup", "systemd-udev"
        )
    if needs.tang or needs.tpm2:
        yield Piece("clevis", "unlocks without a person", "clevis", "clevis")
        yield Piece("clevis-luks-bind", "seals at the first boot", "clevis-luks", "clevis-luks")
        yield Piece("clevis-askpass", "unlocks at boot", "clevis-systemd", "clevis-systemd")
        yield Piece("clevis-decrypt-sss", "unlocks at boot", "clevis", "clevis", "clevis-pin-sss")
    if needs.tang:
        yield Piece(
            "clevis-decrypt-tang", "asks Tang at boot", "clevis", "clevis", "clevis-pin-tang"
        )
    if needs.tpm2:
        # Fedora's package clevis-pin-tpm2 is another program with a form of its own.
        yield Piece(
            "clevis-decrypt-tpm2",
            "asks the TPM at boot",
            "clevis-tpm2",
            "clevis",
            "clevis-pin-tpm2",
        )
        yield Piece(
            "tpm2_unseal", "asks the TPM at boot", "tpm2-tools", "tpm2-tools", "tpm2.0-tools"
        )
