"""requests, kept to the oldest TLS that is spoken here.

Apart from `agent.tls`, which the image pipeline needs: it does without requests and its 5 MiB.
"""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from agent.tls import at_least


class TlsAdapter(HTTPAdapter):
    """Makes a session of requests speak TLS of `version` and later ones. Mount it at https://."""

    def __init__(self, version: str) -> None:
        self._version = version
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        context = at_least(create_urllib3_context(), self._version)
        super().init_poolmanager(*arguments, **options, ssl_context=context)
