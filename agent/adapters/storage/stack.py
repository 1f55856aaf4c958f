"""What stands on a block device right now: partitions, arrays, mappings, mounts, swap.

All of it comes from sysfs and procfs, read at the moment it is asked for, so it holds for whatever
another system left and for what an interrupted run of our own left.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """Where the kernel's own view is read; tests give directories of their own."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")

    def block(self, name: str) -> Path:
        """Return the sysfs directory of a block device, by kernel name (`cciss!c0d0`)."""
        return self.sys / "class/block" / name

    def by_number(self, number: int) -> str | None:
        """Return the kernel name of the block device with this number (st_rdev), None if gone."""
        link = self.sys / f"dev/block/{os.major(number)}:{os.minor(number)}"
        return link.resolve().name if link.exists() else None

    def attribute(self, name: str, attribute: str) -> str | None:
        """Return a sysfs attribute of a block device without its newline, None if absent."""
        try:
            return (self.block(name) / attribute).read_text().strip()
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        """Return the device number that st_rdev has of a device by this name, None if gone."""
        major, colon, minor = (self.attribute(name, "dev") or "").partition(":")
        return os.makedev(int(major), int(minor)) if colon else None

    def size(self, name: str) -> int:
        """Return bytes; sysfs counts 512-byte sectors whatever the device's own are."""
        return int(self.attribute(name, "size") or 0) * 512

    def partitions(self, name: str) -> list[str]:
        """Return the partitions of a device in order of their start."""
        found = [entry.parent.name for entry in self.block(name).glob("*/partition")]
        return sorted(found, key=lambda part: int(self.attribute(part, "start") or 0))

    def holders(self, name: str) -> list[str]:
        directory = self.block(name) / "holders"
        return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []

    def above(self, name: str) -> list[str]:
        """Return everything that stands on a device, each after all that stands on it itself.

        The order in which it can be taken apart; the device itself is not in it.
        """
        order: list[str] = []

        def visit(device: str) -> None:
            for child in (*self.partitions(device), *self.holders(device)):
                if child not in order:
                    visit(child)
                    order.append(child)

        visit(name)
        return order

    def mounts(self, name: str) -> list[Path]:
        """Return where a device is mounted, in the order of mounting."""
        number = self.attribute(name, "dev")
        found = []
        for line in (self.proc / "self/mountinfo").read_text().splitlines():
            fields = line.split(" ")
            source = fields[fields.index("-") + 2]
            # btrfs shows an anonymous device number, so the source counts as well.
            if fields[2] == number or _same_device(source, name):
                found.append(Path(unescape(fields[4])))
        return found

    def swaps(self, name: str) -> bool:
        """Say whether the device is in use as swap."""
        lines = (self.proc / "swaps").read_text().splitlines()[1:]
        return any(_same_device(unescape(line.split()[0]), name) for line in lines)


def node(name: str) -> Path:
    """Return the device node: a `!` in a kernel name is a slash below /dev."""
    return Path("/dev") / name.replace("!", "/")


def kernel_name(path: Path) -> str:
    """Return the kernel's name of the device behind a path, following links."""
    real = path.resolve()
    return str(real.relative_to("/dev")).replace("/", "!")


def unescape(field: str) -> str:
    r"""Undo the octal escapes of procfs tables, such as `\040` for a space (fstab(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _same_device(source: str, name: str) -> bool:
    if not source.startswith("/dev/"):
        return False
    return Path(source).resolve() == node(name)
