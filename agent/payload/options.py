"""How to fetch: patience, trust, credentials."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.proxy import DIRECT, Proxies
from agent.secret import Secret
from agent.tls import OLDEST

if TYPE_CHECKING:
    from agent.payload.registry import Registry

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 10
"""More do not help: four already keep two cores decoding; 170 machines share one server."""


@dataclass(frozen=True)
class Access:
    """What lets us in, apart from the addresses, which are logged.

    `token` is a bearer token, sent to the hosts of the manifest's own URLs and to no other.
    `proxies` of None are those that the live image has.
    """

    token: Secret | None = None
    proxies: Proxies | None = None


ANYONE = Access()


@dataclass(frozen=True)
class FetchOptions:
    """All times are in seconds.

    A request is given up after `connect` without a connection, `stall` without a byte, or
    `request` in all; what it brought is kept and the rest asked for again. `patience` bounds all
    tries for one chunk (or for the manifest), waits included; `total` the whole stream.

    `connections` is 0 for two more than there are cores. `ca` is PEM text, and then nothing else is
    trusted for TLS; older TLS than `minimum_tls` is not spoken. `token` is a bearer token; it goes
    to the hosts of the manifest's own URLs and to no other. `registry` reads `oci://` addresses;
    without it they are refused. `proxies` are asked instead of the hosts that they are for. `warn`
    is told of every mishap that did not stop the stream.
    """

    connections: int = 0
    connect: float = 10.0
    stall: float = 20.0
    request: float = 60.0
    patience: float = 300.0
    total: float | None = None
    ca: str | None = None
    token: Secret | None = None
    registry: Registry | None = None
    proxies: Proxies = DIRECT
    minimum_tls: str = OLDEST
    warn: Callable[[str], None] = log.warning

    @property
    def workers(self) -> int:
        """Connections used side by side."""
        return self.connections or min(MOST_CONNECTIONS, (os.cpu_count() or 1) + 2)
