"""Make what blivet does not: btrfs, which to blivet is a volume manager of its own, and swap."""

from __future__ import annotations

from agent.adapters.command import Run
from agent.layout.model import FileSystem

TIMEOUT = 300
"""Seconds; both write little, but a disk may be slow to show its first writes."""


def makes(filesystem: FileSystem) -> bool:
    """Tell whether this module makes it, and not blivet."""
    return filesystem.kind in _PROGRAMS


def make(run: Run, filesystem: FileSystem) -> None:
    """Make it with the UUID and label of the layout (mkfs.btrfs(8), mkswap(8))."""
    run(
        *_PROGRAMS[filesystem.kind],
        *("--uuid", filesystem.uuid, "--label", filesystem.label, filesystem.device),
        timeout=TIMEOUT,
    )


# The disks were discarded as a whole; once more for each volume only costs time.
_PROGRAMS = {
    "btrfs": ("mkfs.btrfs", "--quiet", "--force", "--nodiscard"),
    "swap": ("mkswap",),
}
