"""Kernels and initrds in /boot itself: GRUB reads that file system and no other.

Packages keep the kernel below /usr/lib/modules and make links or copies of it, and where an image
was built there was no /boot apart from / (SUSE's kernel-scriptlets decide by that). The links would
lead from /boot into an encrypted volume.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import StepError
from agent.payload.contents import Kernel
from agent.target.dracut import initrd_path
from agent.target.os_release import OsRelease
from agent.target.tree import Tree


def in_boot(tree: Tree, os: OsRelease, kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Return the kernels with the places in /boot where `provide` puts them and their initrds.

    Raises `StepError` for a kernel without an initrd.
    """
    return tuple(_in_boot(tree, os, kernel) for kernel in kernels)


def _in_boot(tree: Tree, os: OsRelease, kernel: Kernel) -> Kernel:
    if kernel.initrd is None:
        raise StepError(f"{kernel.image}: this kernel has no initrd")
    image, initrd = f"/boot/vmlinuz-{kernel.version}", initrd_path(kernel.version, os)
    return kernel.model_copy(
        update={
            "image": kernel.image if _lies_there(tree, kernel.image) else image,
            "initrd": kernel.initrd if _lies_there(tree, kernel.initrd) else initrd,
        }
    )


def provide(tree: Tree, os: OsRelease, kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Make real files of /boot of what lies elsewhere or is a link there; return their places."""
    wanted = in_boot(tree, os, kernels)
    for kernel, place in zip(kernels, wanted, strict=True):
        _provide(tree, kernel.image, place.image)
        _provide(tree, kernel.initrd or "", place.initrd or "")
        # What dracut's fips module compares the kernel with, in the initrd, before anything else.
        digest = f"/usr/lib/modules/{kernel.version}/.vmlinuz.hmac"
        if tree.exists(digest):
            _provide(tree, digest, f"/boot/.vmlinuz-{kernel.version}.hmac")
    return wanted


def _provide(tree: Tree, source: str, place: str) -> None:
    if tree.exists(place) and _lies_there(tree, place):
        return
    real = tree.locate(source).relative_to(tree.root)
    tree.remove(place)
    tree.duplicate(real.as_posix(), place)


def _lies_there(tree: Tree, path: str) -> bool:
    return tree.locate(path).is_relative_to(tree.locate("/boot"))
