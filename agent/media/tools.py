"""The programs that write media, with the time they write into file systems set from outside."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

Argument = str | os.PathLike[str]

EPOCH = 1577836800
"""2020-01-01, the date of everything on a medium unless told otherwise: of equal content the bytes
are equal. FAT knows no date before 1980."""


class Run(Protocol):
    """Run a program, return its stdout; raise where it fails."""

    def __call__(self, *argv: Argument, timeout: float = 60) -> str: ...


@dataclass(frozen=True)
class Tools:
    """How to run a program; `epoch` is the time in seconds that is written (SOURCE_DATE_EPOCH)."""

    start: Run
    epoch: int = EPOCH

    def run(self, *argv: Argument, timeout: float = 600) -> str:
        # In UTC, because FAT stores local time.
        time = f"SOURCE_DATE_EPOCH={self.epoch}"
        return self.start("env", time, "TZ=UTC", "MTOOLS_SKIP_CHECK=1", *argv, timeout=timeout)
