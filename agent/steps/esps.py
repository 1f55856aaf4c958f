"""Mount all ESPs of a layout at their places in the tree, for as long as a step needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from agent.layout.model import Layout
from agent.machine import Machine
from agent.target.esp import Esp
from agent.target.tree import Tree


@contextlib.contextmanager
def mounted_esps(machine: Machine, root: Path, layout: Layout) -> Iterator[tuple[Esp, ...]]:
    """Yield the mounted ESPs, that of disk 1 first; they are unmounted again whatever happens."""
    tree = Tree(root)
    with contextlib.ExitStack() as stack:
        yield tuple(
            Esp(stack.enter_context(machine.mounts.mounted(esp, tree.locate(esp.mount))))
            for esp in layout.esps
        )
