"""Make sure that every kernel has an initrd that can start this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agent.errors import ImageError, StepError
from agent.machine import Machine, Progress
from agent.payload.contents import Kernel
from agent.steps.base import Evidence, Json
from agent.target import cpio, uki
from agent.target.contents import Unpacked
from agent.target.dracut import Dracut, initrd_path
from agent.target.family import initrd_builder
from agent.target.initrd import builtin_modules
from agent.target.needs import Needs
from agent.target.os_release import os_release
from agent.target.tree import Tree


@dataclass(frozen=True)
class BuildInitrd:
    """Take the image's generic initrd where it has all that is needed, else build one in the tree.

    What is inside is looked at and not believed: an initrd without Clevis, or made for the disks of
    another machine, would leave this one waiting at a prompt.
    """

    root: Path
    needs: Needs

    name: ClassVar[str] = "build-initrd"
    unit: ClassVar[str] = "kernels"

    def describe(self) -> str:
        return "Check the initrd of every kernel, build it where it lacks something"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        tree = Tree(self.root)
        builder = initrd_builder(Unpacked(tree))
        if builder is not None:
            for file in builder.settings(self.needs):
                tree.write(file)
        kernels = Unpacked(tree).kernels()
        if not kernels:
            raise StepError("/usr/lib/modules: the image has no kernel with its modules")
        evidence: dict[str, Json] = {}
        for done, kernel in enumerate(kernels, start=1):
            evidence[kernel.version] = self._provide(machine, tree, kernel)
            progress(done, len(kernels))
        return evidence

    def _provide(self, machine: Machine, tree: Tree, kernel: Kernel) -> dict[str, Json]:
        builder = initrd_builder(Unpacked(tree))
        taken = uki.find(tree, kernel.version) if kernel.initrd is None else None
        if taken is not None:
            place = initrd_path(kernel.version, os_release(tree))
            uki.take_initrd(tree, taken, place)
            kernel = kernel.model_copy(update={"initrd": place})
        if builder is not None and not builder.generic:
            reason: str | None = f"{builder.name} makes one for each host"
        else:
            reason = self._unfit(tree, kernel, kernel.initrd)
        if reason is None:
            source: dict[str, Json] = {"from": taken.path} if taken is not None else {}
            return {"initrd": kernel.initrd, "built": False, **source}
        if builder is None:
            raise StepError(
                f"{kernel.initrd or kernel.image}: {reason}, and the image has no dracut to build "
                "an initrd"
            )
        path = kernel.initrd or builder.path(kernel.version, os_release(tree))
        builder.build(machine.target, self.root, kernel.version, path)
        still = self._unfit(tree, kernel, path)
        if still is not None:
            raise StepError(f"{path}: {builder.name} built it, and it {still}")
        return {"initrd": path, "built": True, "because": reason}

    def _unfit(self, tree: Tree, kernel: Kernel, initrd: str | None) -> str | None:
        """Return why an initrd cannot start this machine, or None."""
        if initrd is None or not tree.exists(initrd):
            return "has no initrd"
        try:
            names = cpio.names(tree.locate(initrd))
        except ImageError as error:
            return str(error)
        builder = initrd_builder(Unpacked(tree)) or Dracut()
        lacking = builder.lacks(names, builtin_modules(tree, kernel.version), self.needs)
        return f"lacks {', '.join(lacking)}" if lacking else None
