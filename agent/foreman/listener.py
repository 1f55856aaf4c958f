"""What a discovered host listens for: Foreman's orders, over HTTPS on port 8443.

There is no password here, for Foreman has none to give: an order can make us look for our plan, and
nothing else. The port is closed as soon as there is a plan.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any

from agent.foreman.certificate import context
from agent.foreman.order import REBOOT, Order
from agent.report.text import plain

log = logging.getLogger(__name__)

PORT = 8443
"""Where Foreman and its discovery proxies expect a discovered host."""
BODY_LIMIT = 64 * 1024
TALKING = 10.0
"""Seconds for each read and write of one request."""
MOST = 16
"""Requests at the same time; more are turned away."""


class Listener:
    """A context in which orders are taken; `heard` is called for each, from another thread.

    `facts` are what `GET /inventory/facter` shows; `read` makes an order of a kexec body.
    """

    def __init__(
        self,
        facts: Callable[[], Mapping[str, Any]],
        read: Callable[[bytes], Order],
        heard: Callable[[Order], None],
        port: int = PORT,
    ) -> None:
        self.facts, self.read, self.heard = facts, read, heard
        self._port = port
        self._context = context()
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, which the kernel chose where 0 was asked for."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def __enter__(self) -> Listener:
        self._server = _Server(self, self._port, self._context)
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="foreman", daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST
    allow_reuse_address = True

    def __init__(self, listener: Listener, port: int, tls: ssl.SSLContext) -> None:
        self.listener, self._tls = listener, tls
        self._room = threading.Semaphore(MOST)
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        super().__init__(("::" if self.address_family == socket.AF_INET6 else "", port), _Request)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            # Here and not as it is accepted: who says nothing would keep all others waiting.
            request.settimeout(TALKING)
            request = self._tls.wrap_socket(request, server_side=True)
        except OSError:
            self.shutdown_request(request)
        else:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request to the discovery port failed", exc_info=True)


class _Request(BaseHTTPRequestHandler):
    server: _Server
    server_version = "bedplate"
    sys_version = ""
    timeout = TALKING

    def do_GET(self) -> None:
        if self.path == "/inventory/facter":
            self._answer(200, dict(self.server.listener.facts()))
        else:
            self._answer(404, {"result": False})

    def do_PUT(self) -> None:
        body = self._body()
        if body is None:
            self._answer(413, {"result": False})
        elif self.path == "/power/reboot":
            self._take(REBOOT)
        elif self.path == "/power/kexec":
            self._take(self.server.listener.read(body))
        else:
            self._answer(404, {"result": False})

    def _take(self, order: Order) -> None:
        who = self.client_address[0]
        if order.problem:
            log.warning("order from %s: %s", who, order.problem)
        else:
            log.info("order from %s: fetch the plan", who)
        # Answered first: inside an upload Foreman waits for this before it answers that.
        self._answer(200, {"result": not order.problem, "message": order.problem})
        self.server.listener.heard(order)

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > BODY_LIMIT:
            return None
        return self.rfile.read(int(length))

    def _answer(self, status: int, document: Mapping[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        log.debug("discovery port: %s: %s", self.client_address[0], plain(format % args))
