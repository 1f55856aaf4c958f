"""What a tree has: asked of a manifest before anything is erased, and of the tree itself after.

The words are those of `agent.payload.survey`: a program's name, `dracut/MODULE`, `systemd-boot`…
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from agent.payload import contents
from agent.payload.contents import Kernel
from agent.target import signed, uki
from agent.target.tree import Tree

PROGRAMS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
DRACUT_MODULES = "/usr/lib/dracut/modules.d"
INITRAMFS_HOOKS = "/usr/share/initramfs-tools/hooks"
SYSTEMD_BOOT = "/usr/lib/systemd/boot/efi"

_PLACES = {
    "clevis-askpass": "/usr/lib/systemd/system/clevis-luks-askpass.path",
    "systemd": "/usr/lib/systemd/systemd",
    "systemd-cryptsetup": "/usr/lib/systemd/systemd-cryptsetup",
    "systemd-networkd": "/usr/lib/systemd/systemd-networkd",
    "zram-generator": "/usr/lib/systemd/system-generators/zram-generator",
    "systemd-resolved": "/usr/lib/systemd/systemd-resolved",
}
_IMAGES = ("/boot/vmlinuz-{}", "/usr/lib/modules/{}/vmlinuz", "/boot/Image-{}")
_INITRDS = (
    "/boot/initrd.img-{}",
    "/boot/initramfs-{}.img",
    "/boot/initrd-{}",
    "/usr/lib/modules/{}/initrd",
    "/usr/lib/modules/{}/initrd.img",
    "/usr/lib/modules/{}/initramfs.img",  # where bootable containers have it
)


class Contents(Protocol):
    """A root file system, as far as the families ask about it."""

    def has(self, word: str) -> bool: ...
    def kernels(self) -> tuple[Kernel, ...]: ...


@dataclass(frozen=True)
class Listed:
    """What the manifest says is in the image."""

    section: contents.Tree

    def has(self, word: str) -> bool:
        return word in self.section.programs

    def kernels(self) -> tuple[Kernel, ...]:
        return self.section.kernels


@dataclass(frozen=True)
class Unpacked:
    """What is in the tree that was written."""

    tree: Tree

    def has(self, word: str) -> bool:
        group, _, name = word.rpartition("/")
        if group == "dracut":
            return any(re.fullmatch(rf"\d+{re.escape(name)}", d) for d in self._dracut_modules())
        if group == "initramfs":
            return self.tree.exists(f"{INITRAMFS_HOOKS}/{name}")
        if word in {"shim", "grub-signed"}:
            return signed.has(self.tree, word)
        if word == "systemd-boot":
            return any(re.fullmatch(r"systemd-boot\w+\.efi", n) for n in self._loaders())
        if word == "uki":
            return any(True for _ in self._unified())
        if word == "kernel-hmac":
            return any(self._hmac(kernel.version) for kernel in self.kernels())
        if word in _PLACES:
            return self.tree.exists(_PLACES[word])
        return any(self.tree.exists(f"{place}/{word}") for place in PROGRAMS)

    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(self._kernels())

    def _kernels(self) -> Iterator[Kernel]:
        for version in self.tree.names("/usr/lib/modules"):
            image = self._first(_IMAGES, version)
            if image is not None:
                yield Kernel(version=version, image=image, initrd=self._first(_INITRDS, version))

    def _hmac(self, version: str) -> bool:
        places = (f"/boot/.vmlinuz-{version}.hmac", f"/usr/lib/modules/{version}/.vmlinuz.hmac")
        return any(self.tree.exists(place) for place in places)

    def _first(self, places: tuple[str, ...], version: str) -> str | None:
        paths = (place.format(version) for place in places)
        return next((path for path in paths if self.tree.exists(path)), None)

    def _unified(self) -> Iterator[str]:
        directories = (f"/usr/lib/modules/{v}" for v in self.tree.names("/usr/lib/modules"))
        for directory in (*directories, *uki.PLACES[1:]):
            names = self.tree.names(directory)
            yield from (name for name in names if name.lower().endswith(".efi"))

    def _dracut_modules(self) -> tuple[str, ...]:
        return self.tree.names(DRACUT_MODULES)

    def _loaders(self) -> tuple[str, ...]:
        return self.tree.names(SYSTEMD_BOOT)
