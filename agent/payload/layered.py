"""An image with its overlays, described as the one tree that comes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.payload.contents import Need, Tree
from agent.payload.described import Described
from agent.payload.manifest import Os, Payload


@dataclass(frozen=True)
class Layered:
    """`base` with `overlays` laid over it in their order; what it has to fetch is the base's.

    A file that takes the place of another is counted twice: rather too much room than too little.
    """

    base: Described
    overlays: tuple[Described, ...]

    @property
    def name(self) -> str:
        return " + ".join(one.name for one in (self.base, *self.overlays))

    @property
    def kind(self) -> Literal["tree", "disk"]:
        return self.base.kind

    @property
    def os(self) -> Os | None:
        return next((one.os for one in (*reversed(self.overlays), self.base) if one.os), None)

    @property
    def size(self) -> int:
        return sum(one.size for one in (self.base, *self.overlays))

    @property
    def sha256(self) -> str:
        return self.base.sha256

    @property
    def payload(self) -> Payload:
        return self.base.payload

    @property
    def tree(self) -> Tree | None:
        base = self.base.tree
        over = [one.tree for one in self.overlays if one.tree is not None]
        return base if base is None or not over else _joined([base, *over])


def layered(base: Described, overlays: Sequence[Described]) -> Described:
    """Return the description of an image with its overlays; the image itself without any."""
    return Layered(base, tuple(overlays)) if overlays else base


def _joined(trees: Sequence[Tree]) -> Tree:
    programs: dict[str, str] = {}
    for tree in trees:
        programs |= tree.programs
    kernels = {kernel.version: kernel for tree in trees for kernel in tree.kernels}
    return Tree(
        members=sum(tree.members for tree in trees),
        directories=_summed(tree.directories for tree in trees),
        kernels=tuple(kernels.values()),
        programs=programs,
        architecture=next((t.architecture for t in trees if t.architecture), None),
        links=tuple(dict.fromkeys(link for tree in trees for link in tree.links)),
    )


def _summed(needs: Iterable[dict[str, Need]]) -> dict[str, Need]:
    """Return the room of each directory; what one tree does not name counts nothing there."""
    total: dict[str, Need] = {}
    for each in needs:
        for path, need in each.items():
            had = total.get(path, Need(bytes=0, inodes=0))
            total[path] = Need(bytes=had.bytes + need.bytes, inodes=had.inodes + need.inodes)
    return total
