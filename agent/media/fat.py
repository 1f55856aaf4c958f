"""A FAT file system inside a file, at any offset: mkfs.vfat(8) and mtools(1), without root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agent.media.tools import Tools

SECTOR = 512
_FEWEST_CLUSTERS = 65_525 + 500
"""FAT32 by its definition (Microsoft's FAT specification 1.03, "FAT Type Determination"); some
firmware takes fewer for FAT16, whatever the boot sector says. With room for the two tables. Smaller
volumes are FAT16, as UEFI 2.10 section 13.3 has it for removable media."""
_LARGEST_FILE = (1 << 32) - 1


@dataclass(frozen=True)
class Volume:
    """A FAT file system that is `offset` bytes into `image`."""

    image: Path
    offset: int
    tools: Tools

    @property
    def drive(self) -> str:
        """Return it as mtools wants it."""
        return f"{self.image}@@{self.offset}"

    def format(self, size: int, label: str, serial: int) -> None:
        """Make an empty FAT of `size` bytes, 4 MiB at least; `serial` is its 32-bit id.

        The file grows to it.
        """
        bits = 32 if size // SECTOR >= _FEWEST_CLUSTERS else 16
        if not self.image.exists() or self.image.stat().st_size < self.offset + size:
            with self.image.open("ab") as file:
                file.truncate(self.offset + size)
        self.tools.run(
            "mkfs.vfat", "-F", str(bits), "--invariant", "-i", f"{serial:08x}", "-n", label,
            "-s", str(sectors_per_cluster(size)), f"--offset={self.offset // SECTOR}",
            self.image, str(size // 1024),
        )  # fmt: skip

    def add(self, files: Mapping[str, Path]) -> None:
        """Copy files to these paths, in the order of their names; one that is there is replaced."""
        self._make_directories(files)
        for name, source in sorted(files.items()):
            self.tools.run("mcopy", "-o", "-i", self.drive, source, f"::{name}", timeout=3600)

    def copy_to(self, directory: Path) -> None:
        """Copy everything out of it; an empty one is no fault."""
        if self.tools.run("mdir", "-b", "-a", "-i", self.drive, "::/").strip():
            self.tools.run("mcopy", "-s", "-n", "-i", self.drive, "::*", directory, timeout=3600)

    def names(self, directory: str) -> frozenset[str]:
        """Return the names in a directory, in lower case, since FAT does not care."""
        found = self.tools.run("mdir", "-b", "-a", "-i", self.drive, f"::{directory}")
        return frozenset(PurePosixPath(line).name.lower() for line in found.splitlines())

    def _make_directories(self, files: Mapping[str, Path]) -> None:
        wanted = {parent for name in files for parent in PurePosixPath(name).parents}
        wanted.discard(PurePosixPath("."))
        for directory in sorted(wanted):
            parent = "/" if directory.parent == PurePosixPath(".") else f"/{directory.parent}"
            if directory.name.lower() not in self.names(parent):
                self.tools.run("mmd", "-i", self.drive, f"::{directory}")


def sectors_per_cluster(size: int) -> int:
    """Return the largest cluster with which `size` bytes are still FAT32: fewer steps to read.

    One sector where they are FAT16 anyway.
    """
    return max(
        (count for count in (1, 2, 4, 8, 16) if size // (SECTOR * count) >= _FEWEST_CLUSTERS),
        default=1,
    )


def room_for(files: Mapping[str, Path], spare: int, least: int) -> int:
    """Return the size in bytes of a volume that holds the files and `spare`, in whole MiB."""
    mib = 1 << 20
    content = sum(_rounded(path.stat().st_size) for path in files.values())
    # The two tables: 8 bytes for each cluster, which has 512 bytes at least.
    needed = content + content // 64 + spare + 2 * mib
    return max(least, -(-needed // mib) * mib)


def too_large(files: Mapping[str, Path]) -> list[str]:
    """Return the files that FAT cannot hold: 4 GiB and more."""
    return [name for name, path in files.items() if path.stat().st_size > _LARGEST_FILE]


def _rounded(size: int) -> int:
    cluster = 16 * SECTOR
    return -(-size // cluster) * cluster
