"""Make /etc/crypttab: auditors look for every encrypted volume in it, systemd for its options."""

from __future__ import annotations

from collections.abc import Sequence

from agent.layout.model import Layout


def crypttab(layout: Layout, more: Sequence[str] = ()) -> str:
    """Return the text of /etc/crypttab, empty without encryption; `more` are the family's options.

    `none` asks for a passphrase, which clevis-luks-askpass answers; `x-initrd.attach` keeps the
    volume open until the initrd's shutdown phase, because / lies on it (crypttab(5)).
    """
    luks = layout.luks
    if luks is None:
        return ""
    options = ("luks", *options_of(layout), "x-initrd.attach", *more)
    return f"{luks.mapping} UUID={luks.uuid} none {','.join(options)}\n"


def options_of(layout: Layout) -> tuple[str, ...]:
    """Return the options that the initrd needs as well: `discard`, where all disks are flash.

    Without it the flash translation layer of a full mirror is never told what is free, and writes
    slow down and wear for the machine's whole life. What it gives away is which blocks are unused,
    never their content (cryptsetup(8), --allow-discards); RHEL's installer decides the same.
    """
    flash = not any(placed.disk.rotational for placed in layout.disks)
    return ("discard",) if layout.luks is not None and flash else ()
