"""Make the configuration of zram-generator, which sets up swap in compressed memory at boot."""

from __future__ import annotations

from agent.plan.size import MiB, Percent

PATH = "/etc/systemd/zram-generator.conf"


def zram(size: int | Percent) -> str:
    """Return the text of zram-generator.conf: sizes are MiB, `ram` is the memory (its own page)."""
    if isinstance(size, Percent):
        expression = f"ram * {size.points:f} / 100"
    else:
        expression = str(max(1, size // MiB))
    return f"# Written by Bedplate at installation.\n[zram0]\nzram-size = {expression}\n"
