"""How much memory this machine can do without for some minutes."""

from __future__ import annotations

from pathlib import Path

NEEDED = 1 << 30
"""Bytes that are left alone: for what an installation starts, initrds that are built, caches."""


def spare_memory(proc: Path = Path("/proc")) -> int:
    """Return the bytes that may be held while an image is written: half of what nobody needs.

    MemAvailable is what could be had without swapping (proc(5), /proc/meminfo).
    """
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return max(0, int(line.split()[1]) * 1024 - NEEDED) // 2
    return 0
