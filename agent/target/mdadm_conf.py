"""Make mdadm.conf, so that the installed system knows its arrays as its own."""

from __future__ import annotations

from pathlib import PurePosixPath

from agent.layout.model import Layout
from agent.target.tree import Tree

DEBIAN = PurePosixPath("/etc/mdadm/mdadm.conf")
ELSEWHERE = PurePosixPath("/etc/mdadm.conf")


def mdadm_conf(layout: Layout) -> str:
    """Return the text of mdadm.conf, empty without arrays.

    `HOMEHOST <ignore>`: an array is ours whatever host name its superblock carries, so udev starts
    it degraded too (mdadm.conf(5)). Without MAILADDR mdmonitor.service fails at every boot.
    """
    if not layout.every_array:
        return ""
    lines = ["HOMEHOST <ignore>", "MAILADDR root"]
    lines += [
        f"ARRAY {array.path} metadata={array.metadata} UUID={array.mdadm_uuid}"
        for array in layout.every_array
    ]
    return "\n".join(lines) + "\n"


def place(tree: Tree) -> PurePosixPath:
    """Return where this system's mdadm reads it: Debian's was built with a directory of its own."""
    return DEBIAN if tree.exists(DEBIAN.parent) else ELSEWHERE
