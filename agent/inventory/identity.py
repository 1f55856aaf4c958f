"""Whether the disk behind a path is still the one that was chosen.

Kernel names are given in the order of probing; between choosing and erasing a disk may have been
pulled, or another put into its place.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.inventory.model import Disk

Identity = tuple[str | None, str | None, int]
"""Serial, WWN, size in bytes."""


def differences(chosen: Disk, found: Identity) -> Iterator[str]:
    """Yield every mark of identity in which the disk found now differs from the chosen one."""
    serial, wwn, size = found
    for what, then, now in (
        ("serial", chosen.serial, serial),
        ("WWN", chosen.wwn, wwn),
        ("size", chosen.size, size),
    ):
        if then != now:
            yield f"{what} was {then}, is {now}"
