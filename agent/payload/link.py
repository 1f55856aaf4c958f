"""One connection to one server, on which nothing waits longer than it may.

Every receive, of headers and in TLS too, ends at the request's deadline, after a time without a
byte, or when another mirror would have been done long ago.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import SplitResult

from agent.payload.answer import refused_by
from agent.payload.options import FetchOptions
from agent.payload.trouble import Passing, Slow
from agent.proxy import Proxy
from agent.tls import at_least

LOOK_EVERY = 0.25
"""Seconds between two looks at whether another mirror is faster."""


class Clock:
    """The deadline of the request at hand, shared by a connection and what reads from it."""

    def __init__(self, stall: float) -> None:
        self.stall = stall
        self.deadline = 0.0
        self.allowed = 0.0
        self._hurry: Callable[[], float] | None = None
        self._limit = self._looked = 0.0

    def start(self, seconds: float) -> None:
        self.allowed, self.deadline = seconds, time.monotonic() + seconds

    def hurry(self, moment: Callable[[], float] | None) -> None:
        """Ask `moment` now and then until when (time.monotonic) to go on; it may change."""
        self._hurry, self._looked = moment, -math.inf

    def next(self, silent: float = 0.0) -> float:
        """Return how long the next receive may take, or raise `Passing` if there is no time.

        No byte has come for `silent` seconds. What is returned may end before the request does.
        """
        now = time.monotonic()
        left = self.deadline - now
        if left <= 0:
            raise Passing(f"was not done in {self.allowed:.3g} s")
        if silent >= self.stall:
            raise Passing(f"sent no byte for {self.stall:g} s")
        wait = min(self.stall - silent, left)
        if self._hurry is None:
            return wait
        if now >= self._looked + LOOK_EVERY:
            self._limit, self._looked = self._hurry(), now
        if now >= self._limit:
            raise Slow("was slower than another mirror")
        return min(wait, self._limit - now, LOOK_EVERY)

    def expired(self) -> Passing:
        """Say what it means that a connection was not there, or a request not sent, in time."""
        if time.monotonic() >= self.deadline:
            return Passing(f"was not done in {self.allowed:.3g} s")
        return Passing(f"took no byte for {self.stall:g} s")


class _TimedIO(io.RawIOBase):
    """Reads from a socket, never longer than the clock allows."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        # SocketIO counts itself as a user, so that the socket survives `Connection: close`.
        self._sock, self._clock = sock, clock
        self._io = sock.makefile("rb", buffering=0)
        self._plain = not isinstance(sock, ssl.SSLSocket)
        self._waits = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._plain and len(buffer) > io.DEFAULT_BUFFER_SIZE:
            return self._fill(buffer)
        began = time.monotonic()
        while True:
            self._sock.settimeout(self._clock.next(time.monotonic() - began))
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue

    def _fill(self, buffer: Any) -> int:
        """Receive until the buffer is full, the connection ends, or `LOOK_EVERY` is over.

        In one system call that waits by itself, where a socket with a timeout takes three for every
        packet or so, and the interpreter's lock each time.
        """
        began = time.monotonic()
        self._sock.settimeout(None)
        while True:
            wait = min(self._clock.next(time.monotonic() - began), LOOK_EVERY)
            self._wait_at_most(wait)
            try:
                return self._sock.recv_into(buffer, 0, socket.MSG_WAITALL)
            except BlockingIOError:
                continue

    def _wait_at_most(self, seconds: float) -> None:
        if seconds != self._waits:
            timeval = struct.pack("ll", 0, max(1, int(seconds * 1_000_000)))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self._waits = seconds

    def close(self) -> None:
        self._io.close()
        super().close()


class _TimedSocket:
    """What http.client.HTTPResponse needs of a socket."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock, self._clock = sock, clock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedIO(self._sock, self._clock))


class Link(http.client.HTTPConnection):
    """One connection to one origin, through a proxy where there is one for it."""

    def __init__(self, origin: SplitResult, options: FetchOptions, clock: Clock) -> None:
        secure = origin.scheme == "https"
        host, port = cast(str, origin.hostname), origin.port or (443 if secure else 80)
        super().__init__(host, port)
        self._options, self._clock = options, clock
        context = ssl.create_default_context(cadata=options.ca) if secure else None
        self._context = at_least(context, options.minimum_tls) if context is not None else None
        self._proxy = options.proxies.to(origin.scheme, host, port)
        self.response_class = cast(Any, self._response)

    @property
    def relay(self) -> Proxy | None:
        """The proxy that reads our requests; one that only passes TLS on is none."""
        return self._proxy if self._context is None else None

    def _response(self, sock: socket.socket, **keywords: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(cast(Any, _TimedSocket(sock, self._clock)), **keywords)

    def connect(self) -> None:
        patience = min(self._options.connect, self._clock.next())
        sock = self._dial(patience)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock.settimeout(patience)
                if self._proxy is not None:
                    self._tunnel_through(self._proxy, sock)
                sock = self._context.wrap_socket(sock, server_hostname=self.host)
            sock.settimeout(self._options.stall)  # for sending, which is one small packet
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def _dial(self, patience: float) -> socket.socket:
        proxy = self._proxy
        place = (self.host, self.port) if proxy is None else (proxy.host, proxy.port)
        try:
            return socket.create_connection(place, patience)
        except TimeoutError:
            who = "did" if proxy is None else f"is behind the proxy {proxy}, which did"
            raise Passing(f"{who} not let us connect in {patience:.3g} s") from None
        except OSError as error:
            if proxy is None:
                raise
            raise Passing(
                f"is behind the proxy {proxy}, which cannot be reached: {error.strerror or error}"
            ) from None

    def _tunnel_through(self, proxy: Proxy, sock: socket.socket) -> None:
        """Have the proxy connect us (RFC 9110 §9.3.6): it sees the host's name and no more."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"CONNECT {host}:{self.port} HTTP/1.1", f"Host: {host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        answer = self._response(sock, method="CONNECT")
        try:
            answer.begin()
            if answer.status != 200:
                raise refused_by(proxy, answer)
        finally:
            answer.close()
