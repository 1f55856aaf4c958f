"""A registry that lets nobody in without a token, and the server that gives tokens.

In front of a real registry on loopback: checks the token, passes the request on.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Seen:
    """A request: to which path, and what it was let in with."""

    method: str
    path: str
    authorization: str | None
    body: bytes = b""


@dataclass
class Guarded:
    """`account` is USER:PASSWORD for those who want more than to pull; without it nobody may."""

    upstream: int
    account: str | None = None
    refresh: str | None = None
    anonymous: bool = True
    uses: int = 10**9
    """Requests for which a token is good; then it has expired."""
    blobs_at: str | None = None
    """Origin to which requests for blobs are redirected, as registries before a CDN do."""
    realm: str | None = None
    seen: list[Seen] = field(default_factory=list)
    tokens: dict[str, tuple[str, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def given(self, what: str) -> list[Seen]:
        """Return the requests whose path begins with `what`."""
        return [seen for seen in self.seen if seen.path.startswith(what)]

    def challenge(self, repository: str, method: str) -> str:
        realm = self.realm or f"http://{self.host}/token"
        actions = "pull" if method in {"GET", "HEAD"} else "pull,push"
        return f'Bearer realm="{realm}",service="tests",scope="repository:{repository}:{actions}"'

    def token(self, query: dict[str, list[str]], authorization: str | None) -> str | None:
        """Return a token for what is asked, or None: this account may not."""
        known = self._knows(query, authorization)
        (scope,) = query["scope"]
        if not known and (authorization or not self.anonymous or "push" in scope):
            return None
        made = secrets.token_urlsafe(24)
        with self.lock:
            self.tokens[made] = (scope, self.uses)
        return made

    def _knows(self, query: dict[str, list[str]], authorization: str | None) -> bool:
        if self.refresh is not None and query.get("refresh_token") == [self.refresh]:
            return query.get("grant_type") == ["refresh_token"]
        if self.account is None:
            return False
        wanted = base64.b64encode(self.account.encode()).decode()
        return authorization == f"Basic {wanted}"

    def admits(self, repository: str, method: str, authorization: str | None) -> bool:
        token = (authorization or "").removeprefix("Bearer ")
        with self.lock:
            scope, uses = self.tokens.get(token, ("", 0))
            if uses:
                self.tokens[token] = (scope, uses - 1)
        actions = scope.removeprefix(f"repository:{repository}:").split(",")
        return bool(uses) and ("pull" if method in {"GET", "HEAD"} else "push") in actions


@contextmanager
def guarded(guard: Guarded) -> Iterator[Guarded]:
    """Run it on a port of loopback."""

    class Asked(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            authorization = self.headers.get("Authorization")
            parts = urlsplit(self.path)
            guard.seen.append(Seen(self.command, parts.path, authorization, body))
            if parts.path == "/token":
                query = parse_qs(body.decode() if self.command == "POST" else parts.query)
                token = guard.token(query, authorization)
                document = json.dumps({"token": token} if token else {"details": "no"}).encode()
                self.reply(200 if token else 401, {}, document)
                return
            match = re.fullmatch(r"/v2/(.+)/(blobs|manifests)/.*", parts.path)
            assert match, self.path
            if not guard.admits(match[1], self.command, authorization):
                challenge = guard.challenge(match[1], self.command)
                self.reply(401, {"WWW-Authenticate": challenge}, b"{}")
            elif guard.blobs_at and match[2] == "blobs" and self.command == "GET":
                self.reply(307, {"Location": guard.blobs_at + self.path}, b"")
            else:
                self.forward(body)

        def forward(self, body: bytes) -> None:
            upstream = http.client.HTTPConnection("127.0.0.1", guard.upstream, timeout=10)
            kept = ("Accept", "Content-Type", "Range")
            headers = {name: self.headers[name] for name in kept if name in self.headers}
            upstream.request(
                self.command, self.path, body, {**headers, "Host": f"127.0.0.1:{guard.port}"}
            )
            answer = upstream.getresponse()
            passed = ("Location", "Content-Type", "Content-Range", "Docker-Content-Digest")
            headers = {name: answer.headers[name] for name in passed if name in answer.headers}
            size = answer.headers.get("Content-Length")
            self.reply(answer.status, headers, answer.read(), size)
            upstream.close()

        def reply(
            self, status: int, headers: dict[str, str], body: bytes, size: str | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", size or str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815  # as http.server wants them

    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        server.daemon_threads = True
        guard.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield guard
        finally:
            server.shutdown()
