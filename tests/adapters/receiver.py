"""A receiver of events that does as it is told: answers, refuses, stalls, goes away, comes back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agent.report.event import Event


@dataclass
class Request:
    """One POST as it arrived; `at` is in monotonic seconds."""

    body: bytes
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)

    @property
    def events(self) -> list[Event]:
        return [Event.from_json(line) for line in self.body.splitlines()]


@dataclass
class Reply:
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[Request, int], Reply]
"""Makes the reply to a request, which is the n-th (from 0)."""


def accept(request: Request, number: int) -> Reply:
    del number
    events = request.events
    return Reply(body=json.dumps({"accepted": events[-1].seq if events else 0}).encode())


class Receiver:
    """A context; on leaving, the port is closed. A new one may be opened on the same port."""

    def __init__(self, script: Script = accept, port: int = 0) -> None:
        self.requests: list[Request] = []
        self._script = script
        self._port = port

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(body, {k.lower(): v for k, v in self.headers.items()})
                number = len(receiver.requests)
                receiver.requests.append(request)
                reply = receiver._script(request, number)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, format: str, *args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            connections: list[socket.socket]

            def process_request(self, request: object, client_address: object) -> None:
                assert isinstance(request, socket.socket)
                self.connections.append(request)
                super().process_request(request, client_address)

            def handle_error(self, request: object, client_address: object) -> None: ...

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._server.connections = []
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self._server.connections:  # a kept-alive one would outlive the port
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1/events"

    @property
    def seqs(self) -> list[int]:
        return [event.seq for request in self.requests for event in request.events]


def free_port() -> int:
    """Return a port that nothing listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
