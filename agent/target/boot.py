"""What boot loaders have in common: files copied to every ESP, and texts that name them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from agent.target.os_release import OsRelease


@dataclass(frozen=True)
class Copy:
    """A file of the tree and where it goes on the ESP."""

    source: str
    destination: str


@dataclass(frozen=True)
class Host:
    """What starts of one machine have in common; `options` is its kernel command line.

    `boot` is the UUID of the file system at /boot.
    """

    os: OsRelease
    machine_id: UUID
    options: tuple[str, ...]
    boot: str = ""


@dataclass(frozen=True)
class Boot:
    """What lies on each ESP before its loader does: first the copies, then the texts."""

    copies: tuple[Copy, ...]
    texts: tuple[tuple[str, bytes], ...]
    entries: tuple[str, ...]
    """What the loader offers to start, for the report."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path on the ESP."""
        return (*(copy.destination for copy in self.copies), *(path for path, _ in self.texts))
