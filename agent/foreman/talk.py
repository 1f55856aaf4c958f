"""One request to Foreman or a smart proxy.

Redirects are followed by hand: Foreman answers plain http with a redirect to https (force_ssl), and
a library would turn our POST into a GET, or follow one to somebody else with the token in hand.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError, NewConnectionError

from agent import __version__
from agent.find import PLAN_LIMIT
from agent.foreman.address import shown
from agent.proxy import DIRECT, Proxies
from agent.report.text import plain
from agent.report.tls import causes, connect, hung_up
from agent.secret import Secret
from agent.tls import OLDEST

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
"""Foreman renders templates, and works on DHCP and TFTP, before it answers."""
REDIRECTS = 2
TEXT = "text/plain"
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """What was answered, at most `PLAN_LIMIT` + 1 bytes of it, and by which clock."""

    status: int
    content: bytes
    url: str = field(repr=False)
    server_time: datetime | None = None

    @property
    def text(self) -> str:
        return self.content[:4096].decode(errors="replace")


class SilenceError(Exception):
    """There was no answer. `sent` says that the request may have been carried out all the same."""

    def __init__(self, message: str, *, sent: bool, forever: bool = False) -> None:
        self.sent = sent
        self.forever = forever
        """Asking again would not help: TLS, or an address that is none."""
        super().__init__(message)


class ElsewhereError(SilenceError):
    """The answer is at a place that is not asked."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False, forever=True)


@dataclass(frozen=True)
class Talk:
    """How Foreman is spoken to: whom to trust, and for how long to wait, in seconds."""

    ca: Path | None = None
    minimum_tls: str = OLDEST
    patience: float = ANSWER_SECONDS
    proxies: Proxies = DIRECT

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for something; raise `SilenceError` if nobody answers."""
        return self._follow("GET", url, None, dict(headers or {}))

    def post(
        self, url: str, body: bytes, kind: str, login: tuple[str, Secret] | None = None
    ) -> Answer:
        """Send a body of a content type; raise `SilenceError` if nobody answers."""
        headers = {"Content-Type": kind, "Accept": JSON if kind == JSON else "*/*"}
        if login is not None:
            user, password = login
            pair = b64encode(user.encode() + b":" + password.value).decode()
            headers["Authorization"] = f"Basic {pair}"
        return self._follow("POST", url, body, headers)

    def _follow(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        for _ in range(REDIRECTS + 1):
            answer, target = self._once(method, url, body, headers)
            if target is None:
                return answer
            if not _may_follow(url, target):
                place = plain(shown(target), limit=200)
                raise ElsewhereError(f"redirects to {place}, which is not followed")
            url = target
        raise ElsewhereError("redirects without end")

    def _once(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[Answer, str | None]:
        try:
            with (
                self._session() as session,
                session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    timeout=(CONNECT_SECONDS, self.patience),
                    allow_redirects=False,
                    stream=True,
                ) as answer,
            ):
                content = _read(answer, time.monotonic() + self.patience)
                place = answer.headers.get("Location")
                moved = place is not None and answer.status_code in (301, 302, 303, 307, 308)
                found = Answer(
                    answer.status_code, content, url, _moment(answer.headers.get("Date"))
                )
                return found, urljoin(url, place) if moved and place else None
        except requests.exceptions.SSLError as error:
            forever = not hung_up(error)
            raise SilenceError(f"TLS: {_why(error)}", sent=False, forever=forever) from None
        except (requests.RequestException, HTTPError, OSError) as error:
            raise SilenceError(_why(error), sent=_was_sent(error)) from None
        except ValueError as error:
            raise SilenceError(f"is no address: {error}", sent=False, forever=True) from None

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # no proxy but the one that was named, no .netrc
        session.verify = str(self.ca) if self.ca else True
        connect(session, self.minimum_tls, self.proxies)
        session.headers["User-Agent"] = f"bedplate/{__version__}"
        return session


def _read(answer: requests.Response, until: float) -> bytes:
    content = b""
    for piece in answer.iter_content(65536):
        content += piece
        if len(content) > PLAN_LIMIT:
            break
        if time.monotonic() > until:
            raise requests.exceptions.ReadTimeout("the answer takes too long")
    return content[: PLAN_LIMIT + 1]


def _may_follow(source: str, target: str) -> bool:
    """Tell whether to go on: the same host, and never from https to http."""
    try:
        here, there = urlsplit(source), urlsplit(target)
    except ValueError:
        return False
    return here.hostname == there.hostname and there.scheme in {"https", here.scheme}


def _was_sent(error: BaseException) -> bool:
    """Tell whether a server may have got the request that failed like this."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return False
    return not any(isinstance(each, NewConnectionError) for each in causes(error))


def _why(error: BaseException) -> str:
    """Return the innermost reason: never the URL, which requests puts into its own messages."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "cannot be connected to: no answer"
    if isinstance(error, requests.exceptions.Timeout):
        return "does not answer in time"
    for cause in reversed(causes(error)):
        said = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None)
        if said:
            return plain(str(said), limit=200)
    return f"the connection broke ({type(causes(error)[-1]).__name__})"


def _moment(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except ValueError:
        return None
