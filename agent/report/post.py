"""One POST to a receiver of events, and what its answer means: done, refused, or try again."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from agent import __version__
from agent.proxy import DIRECT, Proxies
from agent.report.text import plain
from agent.report.tls import connect
from agent.secret import Secret
from agent.tls import OLDEST

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0
ANSWER_LIMIT = 64 * 1024
"""Bytes of an answer that are read."""
LONGEST_RETRY_AFTER = 300.0
TRY_AGAIN = frozenset({408, 425, 429})
"""The 4xx that mean later, not never (RFC 9110 §15.5.9, RFC 8470, RFC 6585)."""


class RefusedError(Exception):
    """The receiver said no; asking again would not help."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class UnavailableError(Exception):
    """The receiver cannot be reached or is not able to answer now; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


@dataclass(frozen=True)
class Answer:
    """What a receiver said; a field it did not give is None."""

    accepted: int | None
    acknowledged: str | None
    escrow: bool = False
    """Whether it says that it keeps envelopes."""


class Post:
    """Where and how to post: URL, token and trust. Knows nothing of retrying."""

    def __init__(
        self,
        url: str,
        *,
        token: Secret | None,
        ca: Path | None,
        minimum_tls: str = OLDEST,
        proxies: Proxies = DIRECT,
    ) -> None:
        parts = urlsplit(url)
        # `port` raises ValueError for what is not one.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(
                f"{plain(parts.scheme)}: a report URL is http:// or https:// with a host"
            )
        self._url = url
        self._token = token
        self._minimum_tls, self._proxies = minimum_tls, proxies
        self._verify: bool | str = str(ca) if ca else True
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        # Neither user information nor a query: sites put tokens there.
        self.name = plain(f"{parts.scheme}://{host}{port}{parts.path}", limit=200)

    def session(self) -> requests.Session:
        """Return a session that keeps its connection; it belongs to one thread."""
        session = requests.Session()
        # Else a ~/.netrc entry would silently replace our Authorization header, and a proxy of the
        # environment would be asked for a host in the provisioning network.
        session.trust_env = False
        session.verify = self._verify
        connect(session, self._minimum_tls, self._proxies)
        session.headers.update(
            {
                "Content-Type": "application/x-ndjson",
                "Accept": "application/json",
                "User-Agent": f"bedplate/{__version__}",
            }
        )
        return session

    def send(
        self,
        session: requests.Session,
        body: bytes,
        *,
        plan: str = "",
        patience: float = ANSWER_SECONDS,
    ) -> Answer:
        """Post `body`; raise `RefusedError` or `UnavailableError` unless the answer is 2xx.

        An empty body must say by `plan` for whom it asks. Waits at most `patience` seconds for an
        answer once connected.
        """
        headers = {"Bedplate-Plan": plan} if plan else {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.text}"
        until = time.monotonic() + CONNECT_SECONDS + patience
        try:
            with session.post(
                self._url,
                data=body,
                headers=headers,
                timeout=(min(CONNECT_SECONDS, patience), patience),
                allow_redirects=False,  # requests would turn the POST into a GET
                stream=True,
            ) as response:
                return _judge(response, _read(response, until))
        except requests.RequestException as error:
            raise UnavailableError(_why(error)) from None


def _read(response: requests.Response, until: float) -> bytes:
    """Return the body, cut at its limit; a receiver that trickles is not waited for."""
    body = b""
    for piece in response.iter_content(8192):
        body += piece
        if len(body) > ANSWER_LIMIT or time.monotonic() > until:
            break
    return body[:ANSWER_LIMIT]


def _judge(response: requests.Response, body: bytes) -> Answer:
    status = response.status_code
    if 200 <= status < 300:
        return _answer(body)
    said = plain(body.decode("utf-8", "replace").strip(), limit=300)
    message = f"answers {status}" + (f": {said}" if said else "")
    if 300 <= status < 400:
        raise RefusedError(
            status, f"answers {status}: redirects are not followed, give the final URL"
        )
    if 400 <= status < 500 and status not in TRY_AGAIN:
        raise RefusedError(status, message)
    raise UnavailableError(message, _retry_after(response.headers.get("Retry-After", "")))


def _answer(body: bytes) -> Answer:
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return Answer(None, None)
    accepted, acknowledged = document.get("accepted"), document.get("acknowledged")
    return Answer(
        accepted if type(accepted) is int else None,
        acknowledged.lower() if isinstance(acknowledged, str) else None,
        document.get("escrow") is True,
    )


def _retry_after(value: str) -> float:
    """Return seconds (RFC 9110 §10.2.3); a date is not used, this machine's clock may be wrong."""
    return min(float(value), LONGEST_RETRY_AFTER) if value.isascii() and value.isdigit() else 0.0


def _why(error: requests.RequestException) -> str:
    """Return the innermost cause of a failed request: requests wraps it three deep."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "cannot be connected to: no answer"
    if isinstance(error, requests.exceptions.Timeout):
        return "does not answer in time"
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and len(causes) < 20:
        causes.append(cause)
    cause = next((each for each in reversed(causes) if isinstance(each, OSError)), error)
    reason = (
        getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or str(cause)
    )
    what = "TLS" if isinstance(error, requests.exceptions.SSLError) else "not reachable"
    return f"{what}: {plain(str(reason), limit=300)}"
