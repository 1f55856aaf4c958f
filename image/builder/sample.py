"""The sample target systems: Debians that can be installed, as tars of their root file systems."""

from __future__ import annotations

import shutil
from pathlib import Path

from image.builder import mkosi, outputs, stage
from image.builder.report import say

NAME = "debian.tar.zst"
FAMILIES = {"dracut": "sample", "grub": "sample-grub"}
"""How each starts: dracut and systemd-boot, or initramfs-tools and shim + GRUB."""


def build(root: Path, workshop: Path, family: str, *, force: bool, verbose: bool) -> None:
    """Build it into build/sample (or build/sample-grub), unless it is there and nothing changed."""
    name = FAMILIES[family]
    source = root / "qemu" / name
    target = root / "build" / name
    tree = workshop / f"stage-{name}"
    shutil.rmtree(tree, ignore_errors=True)
    # Both are reached and looked at alike.
    stage.copy_tree(root / "qemu/sample/tree", tree)
    if family != "dracut":
        shutil.rmtree(tree / "etc/dracut.conf.d")
    configuration = [*sorted(source.glob("*.chroot")), *sorted(source.glob("mkosi.*"))]
    # mkosi.conf includes the list of kernel modules from the live image.
    modules = root / "mkosi.conf.d/31-modules.conf"
    stamp = stage.digest([*configuration, modules, root / "image/builder", tree])
    if not force and outputs.is_current(target, [NAME, "manifest.json"], stamp):
        say(f"{name}: up to date, nothing to do ({target})")
        return
    results = mkosi.build(
        workshop, source, name, [f"--extra-tree={tree}"], force=force, verbose=verbose
    )
    outputs.publish(
        target,
        {NAME: results / f"{name}.tar.zst"},
        stamp,
        {"name": name, "packages": outputs.packages(results / f"{name}.manifest")},
    )
