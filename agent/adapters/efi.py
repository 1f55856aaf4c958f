"""UEFI boot entries, through efibootmgr(8).

Version 17 prints device paths only with -v, version 18 always, and with -v hexadecimal dumps in
lines of their own below each entry. Both are read from -v.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent.adapters.command import Run
from agent.errors import StepError
from agent.machine import BootEntry

# `Boot000A* label<TAB>path`; the star is missing where the entry is switched off.
_ENTRY = re.compile(r"Boot(?P<number>[0-9A-Fa-f]{4})[* ] (?P<label>[^\t]*)(?:\t(?P<path>.*))?")
# The text form of a hard-drive node (UEFI 2.10, table 10-20): HD(partition, GPT, PARTUUID, …).
_PARTITION = re.compile(r"\bHD\(\d+,GPT,(?P<partuuid>[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-\w{12}),")


class Efibootmgr:
    """The port `Firmware`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def entries(self) -> tuple[BootEntry, ...]:
        """Return the entries in the order of their numbers."""
        return parse_entries(self._run("efibootmgr", "-v"))

    def create(self, label: str, *, disk: Path, partition: int, loader: str) -> None:
        r"""Add an entry and put it first in BootOrder; `loader` is as the ESP sees it: `\EFI\…`."""
        if not loader.startswith("\\"):
            raise StepError(f"{loader}: a loader's path begins with a backslash")
        self._run(
            "efibootmgr", "--create", "--disk", disk, "--part", str(partition),
            "--label", label, "--loader", loader,
        )  # fmt: skip

    def delete(self, number: str) -> None:
        """Remove an entry, also from BootOrder; `number` is four hexadecimal digits."""
        self._run("efibootmgr", "--delete-bootnum", "--bootnum", number)

    def boot_next(self, number: str) -> None:
        """Boot this entry once, at the next boot, whatever the order says."""
        self._run("efibootmgr", "--bootnext", number)


def parse_entries(text: str) -> tuple[BootEntry, ...]:
    """Read the output of `efibootmgr -v`, versions 15 to 18."""
    entries = []
    for line in text.splitlines():
        match = _ENTRY.fullmatch(line)
        if match:
            partition = _PARTITION.search(match["path"] or "")
            partuuid = partition["partuuid"].lower() if partition else None
            entries.append(BootEntry(match["number"].upper(), match["label"], partuuid))
    return tuple(entries)
