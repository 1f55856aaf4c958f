"""Which LUKS2 keyslot holds what: the one place where the numbers stand.

The life of a volume: formatted with `INSTALL`; `RECOVERY` and `UNLOCK` are added; `INSTALL` is
destroyed when the recovery key's envelope was acknowledged and every way in is proven. Where the
TPM is bound in two phases, the installed system's first boot adds `SEALED` and destroys `UNLOCK`.
A Clevis token has the number of its keyslot.
"""

from __future__ import annotations

INSTALL = 0
"""The installer's own random key; gone when the installation has finished."""
RECOVERY = 1
"""The recovery key that people hold in escrow."""
UNLOCK = 2
"""The Clevis binding made while installing; provisional where the TPM is sealed on first boot."""
SEALED = 3
"""The Clevis binding that the installed system makes on its first boot."""

METADATA_SIZE = 128 * 1024
"""Bytes for `cryptsetup luksFormat --luks2-metadata-size`.

Tokens live in the header's JSON area, and a binding carries the keys of each Tang server. With
cryptsetup's default of 16 KiB the second binding of two Tang servers and a TPM does not fit, and
that would show on the first boot (decision 0003).
"""
METADATA_DEFAULT = 16 * 1024
"""What luksFormat makes when nothing is said."""
