"""Make /etc/crypttab: auditors look for every encrypted volume in it, systemd for its options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.layout.model import DiskLayout, Layout, Luks

DATA_TIMEOUT = 300
"""Seconds that a volume of data, and what it lies on, may take to appear; the boot does not wait.
An array without one of its disks is started after 30."""


def crypttab(layout: Layout, more: Sequence[str] = ()) -> str:
    """Return the text of /etc/crypttab, empty without encryption; `more` are the family's options.

    `none` asks for a passphrase, which clevis-luks-askpass answers; `x-initrd.attach` keeps the
    system's volume open until the initrd's shutdown phase, because / lies on it (crypttab(5)).
    `more` is what the initrd needs, so disks of data have none of it: they are opened by the
    running system, when the network is there to ask Tang (`_netdev`), and may be missing
    (`nofail`).
    """
    luks = layout.luks
    if luks is None:
        return ""
    lines = [_line(luks, ("luks", *options_of(layout), "x-initrd.attach", *more))]
    for one in layout.data:
        if one.luks is not None:
            timeout = f"x-systemd.device-timeout={DATA_TIMEOUT}s"
            options = ("luks", *_discard(one.disks), "_netdev", "nofail", timeout)
            lines.append(_line(one.luks, options))
    return "".join(lines)


def _line(luks: Luks, options: Sequence[str]) -> str:
    return f"{luks.mapping} UUID={luks.uuid} none {','.join(options)}\n"


def options_of(layout: Layout) -> tuple[str, ...]:
    """Return the options that the initrd needs as well: `discard`, where all disks are flash.

    Without it the flash translation layer of a full mirror is never told what is free, and writes
    slow down and wear for the machine's whole life. What it gives away is which blocks are unused,
    never their content (cryptsetup(8), --allow-discards); RHEL's installer decides the same.
    """
    return _discard(layout.disks) if layout.luks is not None else ()


def _discard(disks: Iterable[DiskLayout]) -> tuple[str, ...]:
    return () if any(placed.disk.rotational for placed in disks) else ("discard",)
