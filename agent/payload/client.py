"""HTTP/1.1 for downloads: keep-alive connections that cannot be kept waiting.

The standard library's client and no other: requests and urllib3 add 25 MiB to the agent and bound
only single reads, so a server that sends a byte now and then holds them for ever. Here every
receive, of headers and in TLS too, ends at the request's deadline.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import SplitResult, urljoin, urlsplit

from agent.payload.options import FetchOptions
from agent.payload.trouble import Passing, Trouble, Wrong

MOST_REDIRECTS = 5
LONGEST_REST = 120.0
"""Seconds of Retry-After that are believed."""
PIECE = 128 << 10
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Filling:
    """A buffer, and how much of it is there."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self.done = 0

    @property
    def left(self) -> int:
        return len(self._buffer) - self.done

    def add(self, piece: bytes) -> None:
        self._buffer[self.done : self.done + len(piece)] = piece
        self.done += len(piece)


class Clock:
    """The deadline of the request at hand, shared by a connection and what reads from it."""

    def __init__(self, stall: float) -> None:
        self.stall = stall
        self.deadline = 0.0
        self.allowed = 0.0

    def start(self, seconds: float) -> None:
        self.allowed, self.deadline = seconds, time.monotonic() + seconds

    def next(self) -> float:
        """Return how long the next receive may take, or raise `Passing` if there is no time."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Passing(f"was not done in {self.allowed:.3g} s")
        return min(self.stall, left)

    def expired(self) -> Passing:
        """Say what a receive that timed out means."""
        if time.monotonic() >= self.deadline:
            return Passing(f"was not done in {self.allowed:.3g} s")
        return Passing(f"sent no byte for {self.stall:g} s")


class _TimedIO(io.RawIOBase):
    """Reads from a socket, never longer than the clock allows."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        # SocketIO counts itself as a user, so that the socket survives `Connection: close`.
        self._sock, self._clock = sock, clock
        self._io = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._clock.next())
        try:
            return self._io.readinto(buffer)
        except TimeoutError:
            raise self._clock.expired() from None

    def close(self) -> None:
        self._io.close()
        super().close()


class _TimedSocket:
    """What http.client.HTTPResponse needs of a socket."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock, self._clock = sock, clock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedIO(self._sock, self._clock))


class _Link(http.client.HTTPConnection):
    """One connection to one origin."""

    def __init__(self, origin: SplitResult, options: FetchOptions, clock: Clock) -> None:
        secure = origin.scheme == "https"
        super().__init__(cast(str, origin.hostname), origin.port or (443 if secure else 80))
        self._options, self._clock = options, clock
        self._context = ssl.create_default_context(cadata=options.ca) if secure else None
        self.response_class = cast(Any, self._response)

    def _response(self, sock: socket.socket, **keywords: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(cast(Any, _TimedSocket(sock, self._clock)), **keywords)

    def connect(self) -> None:
        patience = min(self._options.connect, self._clock.next())
        try:
            sock = socket.create_connection((self.host, self.port), patience)
        except TimeoutError:
            raise Passing(f"did not let us connect in {patience:.3g} s") from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock.settimeout(patience)
                sock = self._context.wrap_socket(sock, server_hostname=self.host)
            sock.settimeout(self._options.stall)  # for sending, which is one small packet
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class Client:
    """Keep-alive connections of one thread, one to each origin it was sent to.

    `origins` are those the bearer token may go to, as `origin()` writes them.
    """

    def __init__(self, options: FetchOptions, origins: frozenset[str] = frozenset()) -> None:
        self._options, self._origins = options, origins
        self._clock = Clock(options.stall)
        self._links: dict[str, _Link] = {}
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
            link = self._links[name] = _Link(url, self._options, self._clock)
        sent = {"Accept-Encoding": "identity", "User-Agent": "bedplate", **headers}
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
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
        self, link: _Link, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> http.client.HTTPResponse:
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

    def _pieces(self, link: _Link, body: bytes) -> Iterator[bytes]:
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

    Piece by piece, so that what arrived is kept when the connection breaks.
    """
    while filling.left:
        piece = response.read1(min(PIECE, filling.left))
        if not piece:
            return
        filling.add(piece)


def refusal(response: http.client.HTTPResponse) -> Trouble:
    """Say what an answer that is not the wanted one means."""
    text = f"answered {response.status} {response.reason}".rstrip()
    if response.status in BUSY:
        return Passing(text, _retry_after(response.headers.get("Retry-After")))
    return Wrong(text)


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if value.strip().isdigit():
        return min(LONGEST_REST, float(value))
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    return min(LONGEST_REST, max(0.0, seconds))


def _drained(response: http.client.HTTPResponse) -> bool:
    """Tell whether the body was read to its end, so that the next answer can follow."""
    if response.isclosed():
        return True
    if response.length is not None:
        return response.length == 0
    return response.chunked and response.read1(1) == b""
