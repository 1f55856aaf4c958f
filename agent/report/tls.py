"""requests, kept to the oldest TLS that is spoken here and to the proxy that was named.

Apart from `agent.tls`, which the image pipeline needs: it does without requests and its 5 MiB.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from agent.proxy import Proxies
from agent.tls import at_least

_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)


class TlsAdapter(HTTPAdapter):
    """Makes a session of requests speak TLS of `version` and later ones: see `connect`.

    With `proxies` every request takes the way that they say for its host, whatever the session or
    the environment says; redirects too. Credentials of a proxy are told to nobody else.
    """

    def __init__(self, version: str, proxies: Proxies | None = None) -> None:
        self._version, self._proxies = version, proxies
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=self._context())

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, ssl_context=self._context())

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Return what the proxy is told: from its `Secret`, for no URL holds a password here."""
        for each in (self._proxies.http, self._proxies.https) if self._proxies else ():
            if each is not None and str(each) == proxy:
                return each.headers
        return dict(super().proxy_headers(proxy))

    def send(
        self, request: requests.PreparedRequest, *arguments: Any, **options: Any
    ) -> requests.Response:
        if self._proxies is not None:
            options["proxies"] = _through(self._proxies, request.url or "")
        return super().send(request, *arguments, **options)

    def _context(self) -> Any:
        return at_least(create_urllib3_context(), self._version)


def connect(session: requests.Session, version: str, proxies: Proxies | None = None) -> None:
    """Hold a session to the oldest TLS `version` and, where they are given, to `proxies`."""
    adapter = TlsAdapter(version, proxies)
    session.mount("https://", adapter)
    session.mount("http://", adapter)


def hung_up(error: BaseException) -> bool:
    """Tell whether the other side hung up, which may pass; a wrong certificate stays wrong.

    A server or load balancer that restarts hangs up in the handshake, for which requests has the
    same class as for a certificate that nobody vouches for.
    """
    return any(isinstance(each, _HUNG_UP) for each in causes(error))


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it came of; urllib3 keeps the cause in `reason`."""
    found = [error]
    while len(found) < 20:
        last = found[-1]
        inner = [each for each in (*last.args, getattr(last, "reason", None)) if _is_error(each)]
        cause = next(iter(inner), None) or last.__cause__ or last.__context__
        if cause is None or cause in found:
            break
        found.append(cause)
    return found


def _is_error(value: object) -> bool:
    return isinstance(value, BaseException)


def _through(proxies: Proxies, url: str) -> dict[str, str]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    proxy = proxies.to(parts.scheme, parts.hostname or "", port)
    return {} if proxy is None else {parts.scheme: str(proxy)}
