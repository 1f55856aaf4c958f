"""A stand-in for Foreman: real HTTP(S), and what its controllers do where agents meet them.

What it does was read in the source of Foreman, the discovery plugin and the smart proxy: which host
a request is about, every status code of the unattended controller, one-shot tokens, the callback
from within an upload of facts. It renders nothing: a host's plan is a function of the host.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

KEPT = 65535
"""Bytes of a failure that Foreman keeps."""
LEVELS = {"debug", "info", "notice", "warning", "err", "alert", "emerg", "crit"}
STATUSES = {"applied", "failed", "skipped", "pending", "restarted", "failed_restarts"}
DROPPED = re.compile(
    r"kernel|operatingsystem|osfamily|ruby|path|time|swap|free|filesystem", re.IGNORECASE
)
Template = Callable[["Host"], str]


@dataclass
class Host:
    """A managed host. `plan` is its provision template, None for an OS without one."""

    mac: str
    plan: Template | None
    name: str = "db01.example.com"
    ip: str = "127.0.0.1"
    build: bool = True
    token: str | None = field(default_factory=lambda: str(uuid.uuid4()))
    token_expired: bool = False
    has_os: bool = True
    foreman: StandIn | None = field(default=None, repr=False)
    build_errors: bytes | None = None
    builds: int = 0
    """How often built or failed ended its build mode."""

    def url(self, action: str) -> str:
        """Return what foreman_url(action) renders to."""
        assert self.foreman is not None
        query = f"?token={self.token}" if self.token else ""
        return f"{self.foreman.address}/unattended/{action}{query}"

    def finish(self) -> None:
        self.build, self.token, self.builds = False, None, self.builds + 1


@dataclass
class Discovered:
    facts: dict[str, Any]
    mac: str
    ip: str
    uploads: int = 1


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    answered: bool = False

    @property
    def target(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Reply:
    status: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


Weather = Literal["lose-answer", "silent"] | Reply
"""What befalls a request: it is carried out and the answer is lost, it is not carried out, or
somebody else answers it."""


class RefusalError(Exception):
    def __init__(self, status: int, text: str = "") -> None:
        self.status, self.text = status, text
        super().__init__(text)


class StandIn:
    """A context; `address` is how agents reach it. With `certificate` it speaks TLS.

    `proxy` makes it a smart proxy: 200 for 201, errors as text, facts at /discovery/create.
    `rule` is auto-provisioning: it makes a managed host of a discovered one, inside the upload.
    `reach` says where a discovered host at an IP address listens; None for nowhere.
    """

    def __init__(
        self,
        *,
        certificate: tuple[Path, Path] | None = None,
        proxy: bool = False,
        seen_as: str = "127.0.0.1",
        rule: Callable[[Discovered], Host | None] = lambda found: None,
        kexec: Callable[[Host], dict[str, Any]] | None = None,
        reach: Callable[[str], tuple[str, int] | None] = lambda ip: None,
    ) -> None:
        self.hosts: list[Host] = []
        self.discovered: dict[str, Discovered] = {}
        self.reports: list[dict[str, Any]] = []
        self.requests: list[Seen] = []
        self.called_back: list[tuple[str, int, Any]] = []
        self.weather: dict[str, list[Weather]] = {}
        self.login = ("bedplate", "pat-sesame")
        self.rule, self.kexec, self.reach = rule, kexec, reach
        self.proxy, self._certificate, self._seen_as = proxy, certificate, seen_as
        self.lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> StandIn:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if self._certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*map(str, self._certificate))
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        serve = {"poll_interval": 0.02}
        threading.Thread(target=self._server.serve_forever, kwargs=serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        scheme = "https" if self._certificate else "http"
        return f"{scheme}://{self._seen_as}:{self.port}"

    def add(self, host: Host) -> Host:
        host.foreman = self
        with self.lock:
            self.hosts.insert(0, host)  # the newest wins
        return host

    def befall(self, target: str, *weather: Weather) -> None:
        """Let the next requests to `POST /unattended/built` meet this, one after the other."""
        self.weather.setdefault(target, []).extend(weather)

    def asked(self, target: str) -> list[Seen]:
        with self.lock:
            return [seen for seen in self.requests if seen.target == target]

    def provision(self, mac: str, host: Host) -> None:
        """Press Provision on a discovered host: it becomes a managed one and is called back."""
        found = self.discovered.pop(mac)
        self.add(host)
        self.call_back(found, host)

    def call_back(self, found: Discovered, host: Host) -> None:
        if "discovery_kexec" in found.facts and self.kexec is not None:
            self.put(found.ip, "/power/kexec", self.kexec(host))
        else:
            self.put(found.ip, "/power/reboot", {})

    def put(self, ip: str, path: str, document: Any) -> None:
        """Call a discovered host; failures are only written down, as Foreman does."""
        target = self.reach(ip)
        if target is None:
            self.called_back.append((path, 0, "nowhere to be reached"))
            return
        try:
            status, answer = call(target, "PUT", path, json.dumps(document).encode())
        except OSError as error:
            status, answer = 0, str(error)
        self.called_back.append((path, status, answer))

    # --- the controllers ---

    def unattended(self, kind: str, seen: Seen) -> Reply:
        host = self._host(kind, seen)
        if kind in ("built", "failed"):
            if seen.method == "POST" and seen.headers.get("content-type") != "text/plain":
                raise RefusalError(400, "the body was read as form parameters")
            if not host.build:
                raise RefusalError(405)
            if kind == "failed":
                host.build_errors = seen.body[:KEPT]
            host.finish()
            return Reply(201)
        by_token = "token" in seen.query
        if host.token_expired and not by_token:
            raise RefusalError(401, f"provisioning token for host {host.name} expired")
        if not host.build:
            raise RefusalError(405)
        if not host.has_os:
            raise RefusalError(409, f"{host.name} has no operating system")
        if host.plan is None or kind != "provision":
            words = f"unable to find {kind} template for {host.name} running Debian 13"
            raise RefusalError(404, words)
        return Reply(200, host.plan(host))

    def _host(self, kind: str, seen: Seen) -> Host:
        expired_too = kind in ("built", "failed")
        if "token" in seen.query:
            token = seen.query["token"].removesuffix(".slax")
            for host in self.hosts:
                if host.token == token and (expired_too or not host.token_expired):
                    return host
            raise RefusalError(404, "unable to find a host that matches the request")
        macs = [seen.query["mac"].lower()] if "mac" in seen.query else []
        number = 0
        while header := seen.headers.get(f"x-rhn-provisioning-mac-{number}"):
            macs.append(header.split()[1].lower())
            number += 1
        for host in self.hosts:
            if host.mac in macs:
                return host
        raise RefusalError(404, "unable to find a host that matches the request from 127.0.0.1")

    def facts(self, seen: Seen) -> Reply:
        try:
            facts = json.loads(seen.body)["facts"]
        except (ValueError, KeyError, TypeError):
            raise RefusalError(400, "bad facts") from None
        wrong = [name for name in facts if DROPPED.search(name)]
        assert not wrong, f"Foreman throws these facts away: {wrong}"
        mac = str(facts.get("discovery_bootif", "")).lower()
        if not mac:
            raise RefusalError(422, '{"message": "Expected discovery_fact is missing"}')
        address = _address(facts, mac)
        if address is None:
            raise RefusalError(422, '{"message": "Unable to find primary NIC"}')
        if any(host.mac == mac for host in self.hosts):
            raise RefusalError(422, '{"message": "Host already exists as managed"}')
        with self.lock:
            known = self.discovered.get(mac)
            found = Discovered(facts, mac, address, known.uploads + 1 if known else 1)
            self.discovered[mac] = found
        host = self.rule(found)
        if host is not None:
            self.discovered.pop(mac)
            self.add(host)
            self.call_back(found, host)
        return Reply(201, json.dumps({"id": 1, "name": "mac" + mac.replace(":", "")}))

    def config_report(self, seen: Seen) -> Reply:
        expected = base64.b64encode(":".join(self.login).encode()).decode()
        if "authorization" not in seen.headers:
            raise RefusalError(401)
        if seen.headers["authorization"] != f"Basic {expected}":
            raise RefusalError(403)
        report = json.loads(seen.body)["config_report"]
        if set(report["status"]) - STATUSES:
            raise RefusalError(500, "undefined method")
        if any(line["log"]["level"] not in LEVELS for line in report["logs"]):
            raise RefusalError(422, "level")
        self.reports.append(report)
        return Reply(201, "{}")

    def answer(self, seen: Seen) -> Reply:
        """Answer a request as Foreman or the proxy in front of it does."""
        try:
            reply = self._routed(seen)
        except RefusalError as refusal:
            reply = Reply(refusal.status, refusal.text)
        if self.proxy and reply.status == 201:
            return Reply(200, "" if seen.path == "/discovery/create" else reply.text)
        if self.proxy and seen.path == "/discovery/create" and reply.status >= 400:
            return Reply(500, f"Discovery failed, code {reply.status}, reason: {reply.text}")
        return reply

    def _routed(self, seen: Seen) -> Reply:
        facts = "/discovery/create" if self.proxy else "/api/v2/discovered_hosts/facts"
        if seen.path.startswith("/unattended/"):
            kind = seen.path.removeprefix("/unattended/")
            if kind == "failed" and seen.method != "POST":
                raise RefusalError(404)
            with self.lock:
                return self.unattended(kind, seen)
        if seen.target == f"POST {facts}":
            return self.facts(seen)
        if seen.target == "POST /api/v2/config_reports":
            return self.config_report(seen)
        if seen.path == "/":
            return Reply(302, "", {"Location": f"{self.address}/users/login"})
        return Reply(404 if seen.path != "/users/login" else 200, "")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None: ...


def _handler(foreman: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, parts.path, query, headers, body)
            with foreman.lock:
                foreman.requests.append(seen)
                waiting = foreman.weather.get(seen.target)
                weather = waiting.pop(0) if waiting else None
            if weather == "silent":
                self.close_connection = True
                return
            reply = weather if isinstance(weather, Reply) else foreman.answer(seen)
            seen.answered = True
            if weather == "lose-answer":
                self.close_connection = True
                return
            content = reply.text.encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._do()

        def do_POST(self) -> None:
            self._do()

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler


def _address(facts: Mapping[str, Any], mac: str) -> str | None:
    """Return the address of the card `mac`, looked for in the facts by version as Foreman does."""
    if int(str(facts.get("facterversion", "0")).split(".")[0]) >= 3:
        cards = facts["networking"]["interfaces"].values()
        return next((one.get("ip") or one.get("ip6") for one in cards if one["mac"] == mac), None)
    for name in str(facts.get("interfaces", "")).split(","):
        if facts.get(f"macaddress_{name}") == mac:
            return facts.get(f"ipaddress_{name}") or facts.get(f"ipaddress6_{name}")
    return None


def call(
    target: tuple[str, int],
    method: str,
    path: str,
    body: bytes = b"",
    timeout: float = 20,
    length: int | None = None,
) -> tuple[int, Any]:
    """Call a discovered host as Foreman does: TLS, and no look at the certificate.

    `length` is what is said of the body where that is not true.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(*target, context=context, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json"}
        if length is not None:
            headers["Content-Length"] = str(length)
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text
    finally:
        connection.close()


def until(true: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)
