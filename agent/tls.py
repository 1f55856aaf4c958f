"""The oldest TLS that is spoken: what the live image's policy says, everywhere alike."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

from requests.adapters import HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

OLDEST: Final = "1.2"
_VERSIONS: Mapping[str, ssl.TLSVersion] = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


def at_least(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    """Make a context refuse versions older than `version` ("1.2" or "1.3"); return it."""
    context.minimum_version = _VERSIONS[version]
    return context


class TlsAdapter(HTTPAdapter):
    """Makes a session of requests speak TLS of `version` and later ones. Mount it at https://."""

    def __init__(self, version: str) -> None:
        self._version = version
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        context = at_least(create_urllib3_context(), self._version)
        super().init_poolmanager(*arguments, **options, ssl_context=context)
