"""HTTP/1.1 for downloads: keep-alive connections that cannot be kept waiting.

The standard library's client and no other: requests and urllib3 add 25 MiB to the agent and bound
only single reads, so a server that sends a byte now and then holds them for ever (see `link`).
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import cast
from urllib.parse import SplitResult, urljoin, urlsplit

from agent.payload.answer import refusal as refusal  # of the same making, for our callers
from agent.payload.link import Clock, Link
from agent.payload.options import FetchOptions
from agent.payload.trouble import Passing, Trouble, Wrong

MOST_REDIRECTS = 5
PIECE = 128 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Filling:
    """A buffer, and how much of it is there."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self.done = 0

    @property
    def left(self) -> int:
        return len(self._buffer) - self.done

    @property
    def room(self) -> memoryview:
        """What is not filled yet; whoever writes into it counts it in `done`."""
        return self._buffer[self.done :]

    def add(self, piece: bytes) -> None:
        self._buffer[self.done : self.done + len(piece)] = piece
        self.done += len(piece)


class Client:
    """Keep-alive connections of one thread, one to each origin it was sent to.

    `origins` are those the bearer token may go to, as `origin()` writes them.
    """

    def __init__(self, options: FetchOptions, origins: frozenset[str] = frozenset()) -> None:
        self._options, self._origins = options, origins
        self._clock = Clock(options.stall)
        self._links: dict[str, Link] = {}
        self._closed = False

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask for `url` and yield the answer; all of it within `seconds`.

        The connection is kept when the body was read to its end.
        """
        with self.ask("GET", url, headers, seconds) as response:
            yield response

    @contextmanager
    def ask(
        self, method: str, url: str, headers: Mapping[str, str], seconds: float, body: bytes = b""
    ) -> Iterator[http.client.HTTPResponse]:
        """Send any request, as `get` does; only GET and HEAD follow redirects."""
        with self.reading(seconds):
            response = self._follow(url, headers, method, body)
        # Closed by hand: after `Connection: close` the connection has forgotten its answer.
        with closing(response), self.reading(seconds=None):
            yield response
            if not _drained(response):
                self.close()

    def open(
        self, url: str, headers: Mapping[str, str], seconds: float
    ) -> http.client.HTTPResponse:
        """Ask for `url`, following redirects, and return the answer with its body unread."""
        with self.reading(seconds):
            return self._follow(url, headers)

    @contextmanager
    def reading(self, seconds: float | None) -> Iterator[None]:
        """Turn what goes wrong with a connection into `Trouble`, and close it.

        `seconds` are for everything in the context; None goes on with the time that is left.
        """
        if seconds is not None:
            self._clock.start(seconds)
        try:
            with self._translated():
                yield
        except BaseException:
            self.close()
            raise

    @contextmanager
    def hurried(self, moment: Callable[[], float]) -> Iterator[None]:
        """Break requests off with `Slow` at a moment that may change while they are under way."""
        self._clock.hurry(moment)
        try:
            yield
        finally:
            self._clock.hurry(None)

    def abort(self) -> None:
        """Break what another thread is waiting for in this client, now and from now on."""
        self._closed = True
        for link in tuple(self._links.values()):
            sock = link.sock
            if sock is not None:
                with suppress(OSError):  # it was not connected, or no longer
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Trouble:
            raise
        except TimeoutError:
            raise self._clock.expired() from None
        except ssl.SSLCertVerificationError as error:
            raise Wrong(
                f"has a TLS certificate that is not trusted: {error.verify_message}"
            ) from None
        except http.client.IncompleteRead:
            raise Passing("cut the connection in the middle of its answer") from None
        except (ConnectionRefusedError, socket.gaierror) as error:
            said = (error.strerror or "nobody is there").lower()
            raise Passing(f"cannot be reached: {said}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Passing(f"broke the connection: {reason}") from None

    def _follow(
        self, url: str, headers: Mapping[str, str], method: str = "GET", body: bytes = b""
    ) -> http.client.HTTPResponse:
        seen = [url]
        while True:
            parts = urlsplit(url)
            shown = self._authorization(parts)
            response = self._ask(parts, {**headers, **shown}, method, body)
            if response.status == 401 and len(seen) == 1 and self._renewed(parts, response, shown):
                response = self._ask(parts, {**headers, **self._authorization(parts)}, method, body)
            if response.status not in _REDIRECTS or method not in {"GET", "HEAD"}:
                return response
            response.close()
            self._links[origin(parts)].close()
            url = _redirected(parts, response.headers.get("Location", ""))
            if len(seen) > MOST_REDIRECTS or url in seen:
                raise Wrong(f"redirects in a loop, or more than {MOST_REDIRECTS} times")
            seen.append(url)

    def _authorization(self, url: SplitResult) -> dict[str, str]:
        registry, token = self._options.registry, self._options.token
        if registry is not None and (value := registry.authorization(url.geturl())) is not None:
            return {"Authorization": value}
        if token is not None and origin(url) in self._origins:
            return {"Authorization": f"Bearer {token.text}"}
        return {}

    def _renewed(
        self, url: SplitResult, response: http.client.HTTPResponse, shown: Mapping[str, str]
    ) -> bool:
        """Tell whether a registry that answered 401 would now say something else."""
        registry = self._options.registry
        if registry is None:
            return False
        challenge = ", ".join(response.headers.get_all("WWW-Authenticate") or ())
        used = shown.get("Authorization")
        if not registry.renew(url.geturl(), challenge, used, self._options):
            return False
        response.close()
        self._links[origin(url)].close()
        return True

    def _ask(
        self, url: SplitResult, headers: Mapping[str, str], method: str, body: bytes
    ) -> http.client.HTTPResponse:
        name = origin(url)
        link = self._links.get(name)
        if link is None:
            link = self._links[name] = Link(url, self._options, self._clock)
        sent = {"Accept-Encoding": "identity", "User-Agent": "bedplate", **headers}
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        if link.relay is not None:
            sent |= link.relay.headers
            target = f"{url.scheme}://{url.netloc}{target}"  # absolute-form, RFC 9112 §3.2.2
        if link.sock is not None:
            # An idle connection may be closed by the server at any time (RFC 9112 §9.5).
            with suppress(http.client.RemoteDisconnected, ConnectionError):
                return self._exchange(link, method, target, sent, body)
            link.close()
        link.connect()
        if self._closed:  # looked at after connecting: abort() may have come too early to see it
            raise Passing("was given up")
        return self._exchange(link, method, target, sent, body)

    def _exchange(
        self, link: Link, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> http.client.HTTPResponse:
        # For what is sent now: receiving has left a time of its own there, or none.
        cast(socket.socket, link.sock).settimeout(self._options.stall)
        if method in {"GET", "HEAD"}:
            link.request(method, target, headers=headers)
            return link.getresponse()
        headers["Content-Length"] = str(len(body))
        try:
            link.request(method, target, body=self._pieces(link, body), headers=headers)
        except ConnectionError:
            # A server that refuses a long body answers in the middle of it: 413 says more.
            with suppress(OSError, http.client.HTTPException):
                return link.getresponse()
            raise
        return link.getresponse()

    def _pieces(self, link: Link, body: bytes) -> Iterator[bytes]:
        """Yield a body piece by piece: a socket's timeout is for all that one call sends."""
        for start in range(0, len(body), PIECE):
            cast(socket.socket, link.sock).settimeout(self._clock.next())
            yield body[start : start + PIECE]


def _redirected(here: SplitResult, place: str) -> str:
    refused = Wrong(f"redirects to {place[:200]!r}, which is no http or https address")
    try:
        url = urljoin(here.geturl(), place)
        there = urlsplit(url)
        usable = place and there.scheme in {"http", "https"} and there.hostname and there.port != 0
    except ValueError:
        raise refused from None
    if not usable:
        raise refused
    if here.scheme == "https" and there.scheme == "http":
        raise Wrong(f"redirects from https to plain {url[:200]}")
    return url


def origin(url: str | SplitResult) -> str:
    """Return scheme, host and port of a URL: https://images.example.com:443."""
    parts = urlsplit(url) if isinstance(url, str) else url
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def read_into(response: http.client.HTTPResponse, filling: Filling) -> None:
    """Fill from the body until full or the body ends.

    As it comes, so that what arrived is kept when the connection breaks.
    """
    while filling.left and response.fp is not None:
        if response.chunked or response.length is None:
            piece = response.read1(min(PIECE, filling.left))
            count = len(piece)
            filling.add(piece)
        else:
            # What HTTPResponse.readinto does, but a single receive. read1 would make bytes of every
            # piece, which the allocator gets from the kernel and gives back: as much work as all of
            # hashing.
            count = response.fp.readinto1(filling.room[: response.length])
            filling.done += count
            response.length -= count
            if not response.length:
                response.close()
        if not count:
            return


def _drained(response: http.client.HTTPResponse) -> bool:
    """Tell whether the body was read to its end, so that the next answer can follow."""
    if response.isclosed():
        return True
    if response.length is not None:
        return response.length == 0
    return response.chunked and response.read1(1) == b""
