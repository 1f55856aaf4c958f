"""The sample target OS: a Debian that can be installed, as a tar of its root file system."""

from __future__ import annotations

import shutil
from pathlib import Path

from image.builder import mkosi, outputs, stage
from image.builder.report import say

NAME = "debian.tar.zst"


def build(root: Path, workshop: Path, *, force: bool, verbose: bool) -> None:
    """Build it into build/sample, unless it is there and nothing changed."""
    source = root / "qemu/sample"
    target = root / "build/sample"
    tree = workshop / "stage-sample"
    shutil.rmtree(tree, ignore_errors=True)
    stage.copy_tree(source / "tree", tree)
    configuration = [*sorted(source.glob("*.chroot")), *sorted(source.glob("mkosi.*"))]
    # mkosi.conf includes the list of kernel modules from the live image.
    modules = root / "mkosi.conf.d/31-modules.conf"
    stamp = stage.digest([*configuration, modules, root / "image/builder", tree])
    if not force and outputs.is_current(target, [NAME, "manifest.json"], stamp):
        say(f"sample: up to date, nothing to do ({target})")
        return
    results = mkosi.build(
        workshop, source, "sample", [f"--extra-tree={tree}"], force=force, verbose=verbose
    )
    outputs.publish(
        target,
        {NAME: results / "sample.tar.zst"},
        stamp,
        {"name": "sample", "packages": outputs.packages(results / "sample.manifest")},
    )
