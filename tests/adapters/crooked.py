"""An HTTP server that misbehaves on request: cuts, stalls, lies, and swaps files under way.

A fault is a small object with one method. `Crooked.script` picks one for each request, or None for
an honest answer; honest answers know Range, If-Range, ETag and keep-alive.
"""

from __future__ import annotations

import gzip
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """What was asked for; `first` and `last` are the range, or the whole file without one."""

    number: int
    path: str
    first: int
    last: int
    ranged: bool
    headers: dict[str, str]
    time: float = field(default_factory=time.monotonic)


@dataclass
class Answer:
    """The honest answer, for a fault to spoil."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Whatever"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Fault(Protocol):
    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None: ...


class Wire:
    """The client's connection, seen from the server."""

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        self._sock, self._closing = sock, closing
        self.broken = False

    def send(self, content: bytes) -> None:
        self._sock.sendall(content)

    def cut(self) -> None:
        """Reset: no farewell, as when a cable is pulled or a proxy dies."""
        self.broken = True
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        os.close(self._sock.detach())  # around the server, which would send FIN first

    def hang(self, seconds: float) -> bool:
        """Do nothing; true if the server is being closed meanwhile."""
        return self._closing.wait(seconds)


Script = Callable[[Request], Fault | None]


def honest(_: Request) -> Fault | None:
    return None


def always(fault: Fault) -> Script:
    """Spoil every answer that carries the payload."""
    return lambda request: fault if request.path.endswith(".zst") else None


def first(*faults: Fault | None) -> Script:
    """Spoil the first answers that carry the payload, one fault each, and be honest then."""
    left = list(faults)
    lock = threading.Lock()

    def script(request: Request) -> Fault | None:
        if not request.path.endswith(".zst"):
            return None
        with lock:
            return left.pop(0) if left else None

    return script


def first_apart(*faults: Fault | None) -> Script:
    """As `first`, but no range is spoiled twice: a second bad delivery of one chunk is final."""
    left, spoiled = list(faults), set[tuple[int, int]]()
    lock = threading.Lock()

    def script(request: Request) -> Fault | None:
        if not request.path.endswith(".zst"):
            return None
        with lock:
            wanted = request.first, request.last
            if not left or (left[0] is not None and wanted in spoiled):
                return None
            if left[0] is not None:
                spoiled.add(wanted)
            return left.pop(0)

    return script


def for_path(suffix: str, fault: Fault) -> Script:
    return lambda request: fault if request.path.endswith(suffix) else None


class Crooked:
    """The server; `files` may be changed while it runs. A context manager."""

    def __init__(
        self,
        files: dict[str, bytes],
        script: Script = honest,
        *,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.files, self.script = files, script
        self.requests: list[Request] = []
        self.etags, self.weak = True, False
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._tls = tls

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # broken pipes are what this server is for

        self._http = Server(("127.0.0.1", port), _handler(self))
        if tls is not None:
            self._http.socket = tls.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Crooked:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    def url(self, path: str) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/{path}"

    def note(self, path: str, headers: dict[str, str]) -> Request:
        content = self.files.get(path, b"")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", ""))
        first, last = 0, len(content) - 1
        if asked:
            first, last = int(asked[1]), min(int(asked[2]), last)
        with self._lock:
            request = Request(len(self.requests), path, first, last, asked is not None, headers)
            self.requests.append(request)
        return request

    def answer(self, request: Request) -> Answer:
        """Return what an honest server says."""
        content = self.files.get(request.path)
        if content is None:
            return Answer(404, {"Content-Length": "0"}, b"")
        weak = "W/" if self.weak else ""
        etag = f'{weak}"{sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag} if self.etags else {}
        whole = request.headers.get("If-Range", etag) != etag
        if not request.ranged or whole:
            return Answer(200, {**headers, "Content-Length": str(len(content))}, content)
        if request.first >= len(content):
            headers |= {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}
            return Answer(416, headers, b"")
        body = content[request.first : request.last + 1]
        headers |= {
            "Content-Range": f"bytes {request.first}-{request.last}/{len(content)}",
            "Content-Length": str(len(body)),
        }
        return Answer(206, headers, body)


def _handler(crooked: Crooked) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = crooked.note(self.path.lstrip("/"), dict(self.headers.items()))
            answer = crooked.answer(request)
            fault = crooked.script(request)
            wire = Wire(self.connection, crooked.closing)
            try:
                if fault is None:
                    wire.send(answer.head + answer.body)
                else:
                    fault.commit(answer, wire, crooked)
            except OSError:
                wire.broken = True
            self.close_connection = self.close_connection or wire.broken

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def mirrors(*servers: Crooked) -> Iterator[Sequence[Crooked]]:
    """Run several servers for the length of the context."""
    started: list[Crooked] = []
    try:
        for server in servers:
            started.append(server.__enter__())
        yield started
    finally:
        for server in started:
            server.__exit__()


@dataclass(frozen=True)
class Cut:
    """Reset the connection after `after` bytes of the answer's head and body together."""

    after: int

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        wire.send((answer.head + answer.body)[: self.after])
        time.sleep(0.005)  # a reset throws away what the client has not read yet
        wire.cut()


@dataclass(frozen=True)
class CutBody:
    """Close in order after `after` bytes of the body, which was announced to be longer."""

    after: int

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        wire.send(answer.head + answer.body[: self.after])
        wire.broken = True


@dataclass(frozen=True)
class Stall:
    """Say nothing more after `after` bytes of head and body, for a long time."""

    after: int

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        wire.send((answer.head + answer.body)[: self.after])
        wire.hang(60)
        wire.broken = True


@dataclass(frozen=True)
class Trickle:
    """A byte now and then from the first byte of the head on: never silent, never done."""

    pause: float = 0.02
    after: int = 0

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        content = answer.head + answer.body
        wire.send(content[: self.after])
        for number in range(self.after, len(content)):
            wire.send(content[number : number + 1])
            if wire.hang(self.pause):
                break
        wire.broken = True


@dataclass(frozen=True)
class Rate:
    """An honest answer at so many bytes a second on each connection."""

    speed: float
    piece: int = 4096

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        wire.send(answer.head)
        began = time.monotonic()
        for start in range(0, len(answer.body), self.piece):
            due = began + (start + self.piece) / self.speed
            if wire.hang(max(0.0, due - time.monotonic())):
                wire.broken = True
                return
            wire.send(answer.body[start : start + self.piece])


@dataclass(frozen=True)
class WrongLength:
    """Announce `more` bytes more than are sent (or fewer, when negative)."""

    more: int

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        answer.headers["Content-Length"] = str(max(0, len(answer.body) + self.more))
        wire.send(answer.head + answer.body)
        wire.broken = True


@dataclass(frozen=True)
class IgnoreRange:
    """Send the whole file with 200, whatever was asked; `cut` bytes of it, if that is not 0."""

    cut: int = 0
    announce: bool = True

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        content = next(body for path, body in server.files.items() if path.endswith(".zst"))
        headers = (
            {"Content-Length": str(len(content))} if self.announce else {"Connection": "close"}
        )
        wire.send(Answer(200, headers, b"").head)
        wire.send(content[: self.cut] if self.cut else content)
        wire.broken = bool(self.cut) or not self.announce


@dataclass(frozen=True)
class WrongRange:
    """Claim another range than was asked for; `total` overrides the file's length."""

    shift: int = 1
    total: int | None = None
    text: str | None = None

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        text = answer.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", text)
        if found:
            begin, end, total = (int(group) for group in found.groups())
            claimed = self.total if self.total is not None else total
            text = f"bytes {begin + self.shift}-{end + self.shift}/{claimed}"
        answer.headers["Content-Range"] = text if self.text is None else self.text
        wire.send(answer.head + answer.body)


@dataclass(frozen=True)
class Status:
    """Refuse with a status, and perhaps ask to be left alone."""

    code: int
    retry_after: str | None = None

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        body = b"no"
        headers = {"Content-Length": str(len(body))}
        if self.retry_after is not None:
            headers["Retry-After"] = self.retry_after
        wire.send(Answer(self.code, headers, b"").head + body)


@dataclass(frozen=True)
class Html:
    """The page of a captive portal, with 200."""

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        body = b"<html><body>Please log in</body></html>"
        headers = {"Content-Type": "text/html", "Content-Length": str(len(body))}
        wire.send(Answer(200, headers, b"").head + body)


@dataclass(frozen=True)
class Gzip:
    """A proxy that compresses what passes through."""

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        body = gzip.compress(answer.body)
        answer.headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(body))}
        wire.send(answer.head + body)


@dataclass(frozen=True)
class Flip:
    """Flip one bit of the body: `part` says how far into it, from 0.0 to 1.0."""

    part: float = 0.5
    bit: int = 0

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        body = bytearray(answer.body)
        if body:
            body[min(len(body) - 1, int(self.part * len(body)))] ^= 1 << self.bit
        wire.send(answer.head + body)


@dataclass(frozen=True)
class Redirect:
    """Send elsewhere; the empty place is the same address again."""

    place: str = ""

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        place = self.place or server.url(server.requests[-1].path)
        wire.send(Answer(302, {"Location": place, "Content-Length": "0"}, b"").head)


@dataclass(frozen=True)
class Garbage:
    """Something that is not HTTP."""

    content: bytes = b"SSH-2.0-OpenSSH_9.2p1\r\n"

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        wire.send(self.content)
        wire.broken = True


@dataclass(frozen=True)
class Endless:
    """A body without a length that never ends."""

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        headers = {
            name: value for name, value in answer.headers.items() if name != "Content-Length"
        }
        wire.send(Answer(answer.status, headers | {"Connection": "close"}, b"").head)
        while not wire.hang(0):
            wire.send(bytes(1 << 16))
        wire.broken = True


@dataclass(frozen=True)
class Chunked:
    """The honest body in chunked transfer coding."""

    size: int = 1000

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        del answer.headers["Content-Length"]
        answer.headers["Transfer-Encoding"] = "chunked"
        wire.send(answer.head)
        for start in range(0, len(answer.body), self.size):
            piece = answer.body[start : start + self.size]
            wire.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        wire.send(b"0\r\n\r\n")


@dataclass(frozen=True)
class Retag:
    """Answer honestly under another ETag: a farm of servers that disagree."""

    etag: str

    def commit(self, answer: Answer, wire: Wire, server: Crooked) -> None:
        answer.headers["ETag"] = self.etag
        wire.send(answer.head + answer.body)
