"""Serve one image that lies here to a BMC: HTTP with ranges, nothing else.

BMCs read an ISO as a disk: thousands of small ranges, several connections, for as long as it is
inserted. The path holds a random word, because an image may hold a plan and nobody logs in.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import BinaryIO
from urllib.parse import quote

from agent.errors import MachineError, Problem

BLOCK = 256 * 1024
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Served:
    """An image that can be fetched at `url`; `sent` counts the bytes that were, all in all."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size = url, size
        self.sent = 0
        self.requests = 0
        self._lock = threading.Lock()

    def count(self, sent: int, requests: int = 0) -> None:
        with self._lock:
            self.sent += sent
            self.requests += requests


@contextmanager
def serving(file: Path, address: str) -> Iterator[Served]:
    """Serve `file` at `address` (`IP[:PORT]`) for the length of the context.

    Raises `MachineError` where the file cannot be read or the address not be listened at.
    """
    host, port = _address(address)
    try:
        size = file.stat().st_size
        file.open("rb").close()
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise MachineError([Problem(str(file), reason)]) from None
    path = f"/{secrets.token_urlsafe(16)}/{quote(_ending_in_iso(file.name))}"
    try:
        server = _Server((host, port), file, path, size)
    except OSError as error:
        reason = f"cannot be listened at: {(error.strerror or str(error)).lower()}"
        raise MachineError([Problem(f"--serve {address}", reason)]) from None
    shown = f"[{host}]" if ":" in host else host
    server.served = Served(f"http://{shown}:{server.server_address[1]}{path}", size)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="media", daemon=True
    )
    thread.start()
    try:
        yield server.served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    # A BMC keeps connections open for as long as the image is inserted: nobody waits for those.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    served: Served

    def __init__(self, place: tuple[str, int], file: Path, path: str, size: int) -> None:
        self.address_family = AF_INET6 if ":" in place[0] else AF_INET
        self.file, self.path, self.size = file, path, size
        super().__init__(place, _Request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a BMC that goes away in the middle is the usual end of a connection."""


class _Request(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 300
    server_version, sys_version = "bedplate", ""

    def do_GET(self) -> None:  # http.server calls it so
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: thousands of ranges are not news; `Served` counts."""

    def _answer(self, *, body: bool) -> None:
        if not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.server.served.count(0, requests=1)
        size = self.server.size
        wanted = _wanted(self.headers.get("Range", ""), size)
        if wanted is None:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end, partial = wanted
        self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if body:
            with self.server.file.open("rb") as image:
                self._send(image, start, end)

    def _send(self, image: BinaryIO, start: int, end: int) -> None:
        image.seek(start)
        while start < end:
            block = image.read(min(BLOCK, end - start))
            if not block:  # the file became shorter, and its length was promised
                self.close_connection = True
                return
            self.wfile.write(block)
            self.server.served.count(len(block))
            start += len(block)


def _wanted(header: str, size: int) -> tuple[int, int, bool] | None:
    """Return first byte, end and whether that is a part; None for a range that does not exist.

    One range is understood; several, and what is no range of bytes, get the whole (RFC 9110 §14.2).
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found.group(1) == found.group(2) == "":
        return 0, size, False
    first, last = found.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end, True) if start < end else None


def _ending_in_iso(name: str) -> str:
    """Return the name with the ending that several BMCs look for before they take an image."""
    return name if name.lower().endswith((".iso", ".img")) else f"{name}.iso"


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = text, "0"
    host = host.removeprefix("[").removesuffix("]")
    try:
        usable = not ip_address(host).is_unspecified and port.isdigit() and int(port) < 65536
    except ValueError:
        usable = False
    if not usable:
        message = f"must be an address of this machine that the BMC reaches, IP[:PORT], not {text}"
        raise MachineError([Problem("--serve", message)])
    return host, int(port)
