"""The oldest TLS that is spoken: what the live image's policy says, everywhere alike."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

OLDEST: Final = "1.2"
_VERSIONS: Mapping[str, ssl.TLSVersion] = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


def at_least(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    """Make a context refuse versions older than `version` ("1.2" or "1.3"); return it."""
    context.minimum_version = _VERSIONS[version]
    return context
