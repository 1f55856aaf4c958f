"""A forward proxy on loopback: absolute-form and CONNECT, Basic credentials, and what it was asked.

It may be told to misbehave: to answer every request with given bytes, or to say nothing.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import socketserver
import threading
from base64 import b64encode
from io import BufferedIOBase
from urllib.parse import urlsplit


class Forwarder:
    """A context manager. `asked` are the request lines, `heads` the whole heads."""

    def __init__(self, credentials: str | None = None, answer: bytes | None = None) -> None:
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.answer = answer
        self.wanted = credentials and f"Basic {b64encode(credentials.encode()).decode()}"
        forwarder = self

        class Handler(socketserver.StreamRequestHandler):
            rbufsize = 0  # what follows the head belongs to the tunnel

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    forwarder._serve(self.connection, self.rfile)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Forwarder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, client: socket.socket, lines: BufferedIOBase) -> None:
        head = []
        while line := lines.readline().decode("latin-1").rstrip("\r\n"):
            head.append(line)
        if not head:
            return
        self.asked.append(head[0])
        self.heads.append("\n".join(head))
        if self.answer is not None:
            client.sendall(self.answer)
            return
        if self.wanted and f"Proxy-Authorization: {self.wanted}" not in head:
            client.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = head[0].split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port = parts.port or 80
        try:
            server = socket.create_connection((str(parts.hostname), port), 5)
        except OSError:
            client.sendall(b"HTTP/1.1 502 Nobody there\r\nContent-Length: 0\r\n\r\n")
            return
        with server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Go on\r\n\r\n")
            else:
                kept = [line for line in head[1:] if not line.lower().startswith("proxy-")]
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                lead = [f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]
                server.sendall("\r\n".join(lead).encode("latin-1"))
            _splice(client, server)


def _splice(one: socket.socket, two: socket.socket) -> None:
    with selectors.DefaultSelector() as waiting:
        waiting.register(one, selectors.EVENT_READ, two)
        waiting.register(two, selectors.EVENT_READ, one)
        while True:
            for key, _ in waiting.select():
                piece = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                if not piece:
                    return
                key.data.sendall(piece)
