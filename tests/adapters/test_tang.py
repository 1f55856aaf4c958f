"""Advertisements of real Tang servers, and of servers that are none."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from agent.adapters.command import run
from agent.adapters.tang import LIMIT, TangServers
from agent.errors import StepError
from tests.adapters.daemons import TangServer, free_port, tang_server

OTHER = "A" * 43
TANG = TangServers(run, timeout=2, attempts=1)
Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TangServer]:
    with tang_server(tmp_path_factory.mktemp("tang")) as server:
        yield server


@pytest.fixture(scope="module")
def genuine(server: TangServer) -> str:
    return TANG.advertisement(server.url, server.thumbprint).jws


@contextlib.contextmanager
def impostor(answer: Answer) -> Iterator[str]:
    """Serve whatever `answer` writes to every GET."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


def says(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def refusal(url: str, thumbprint: str, tang: TangServers = TANG) -> str:
    with pytest.raises(StepError) as caught:
        tang.advertisement(url, thumbprint)
    message = str(caught.value)
    assert message.startswith(f"{url}: ")
    return message.removeprefix(f"{url}: ")


def test_the_right_server_is_believed(server: TangServer) -> None:
    found = TANG.advertisement(server.url, server.thumbprint)
    assert (found.url, found.thumbprint) == (server.url, server.thumbprint)
    assert set(json.loads(found.jws)) >= {"payload"}


def test_what_was_verified_is_remembered_and_not_asked_for_again(tmp_path: Path) -> None:
    tang = TangServers(run, attempts=1)
    with tang_server(tmp_path) as server:
        before = tang.advertisement(server.url, server.thumbprint)
    assert tang.advertisement(server.url, server.thumbprint) is before


def test_a_server_that_fails_is_asked_once_in_a_run() -> None:
    calls = []

    def fail(request: BaseHTTPRequestHandler) -> None:
        calls.append(request.path)
        says(b"", 500)(request)

    tang = TangServers(run, attempts=1)
    with impostor(fail) as url:
        assert refusal(url, OTHER, tang) == refusal(url, OTHER, tang)
    assert len(calls) == 1


def test_a_server_with_other_keys_is_refused_with_both_thumbprints(server: TangServer) -> None:
    assert refusal(server.url, OTHER) == f"has no key {OTHER}, it signs with {server.thumbprint}"


def test_a_retired_key_is_told_from_a_wrong_one(tmp_path: Path) -> None:
    with tang_server(tmp_path) as server:
        old = server.thumbprint
        server.rotate()
        message = refusal(server.url, old)
    assert message.startswith(f"the key {old} was retired, the server now signs with ")
    assert server.thumbprint in message


def test_an_exchange_key_s_thumbprint_is_no_signing_key_s(server: TangServer) -> None:
    exchange = run("jose", "jwk", "thp", "-a", "S256", "-i", server.directory / "exc.jwk").strip()
    assert server.thumbprint in refusal(server.url, exchange)


def test_a_sha1_thumbprint_is_refused_with_what_to_give_instead(server: TangServer) -> None:
    sha1 = run("jose", "jwk", "thp", "-a", "S1", "-i", server.directory / "sig.jwk").strip()
    assert refusal(server.url, sha1) == (
        f"{sha1} is a SHA-1 thumbprint, give the SHA-256 one of 43 characters"
    )


def test_keys_that_did_not_sign_are_refused_although_they_are_advertised(
    server: TangServer, genuine: str
) -> None:
    jws = json.loads(genuine)
    keys = json.loads(base64.urlsafe_b64decode(jws["payload"] + "=="))
    keys["keys"].append(json.loads(run("jose", "jwk", "gen", "-i", '{"alg":"ECMR"}')))
    forged = base64.urlsafe_b64encode(json.dumps(keys).encode()).decode().rstrip("=")
    with impostor(says(json.dumps({**jws, "payload": forged}).encode())) as url:
        message = refusal(url, server.thumbprint)
    assert message == (
        f"the advertisement is not signed by {server.thumbprint}, whose keys it names"
    )


def test_nobody_at_the_address_is_named_as_the_system_names_it() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert refusal(url, OTHER) == "no Tang server answers there: connection refused"
    assert "no Tang server answers there: " in refusal("http://no-such-host.invalid", OTHER)


def test_another_web_server_is_no_tang_server(genuine: str) -> None:
    with impostor(says(b"", 404)) as url:
        assert refusal(url, OTHER) == "no Tang server answers there: no /adv (404)"
    with impostor(says(b"", 500)) as url:
        assert refusal(url, OTHER) == "answers with HTTP status 500"
    with impostor(says(b"<html>hello</html>")) as url:
        assert "is not JSON" in refusal(url, OTHER)
    with impostor(says(b"\xff\xfe")) as url:
        assert refusal(url, OTHER) == "the advertisement is not text"
    with impostor(says(b'{"keys": []}')) as url:
        assert "is not what a Tang server's /adv answers" in refusal(url, OTHER)


def test_a_redirection_is_not_followed_because_clevis_would_not(server: TangServer) -> None:
    with impostor(says(b"", 302, Location=f"{server.url}/adv")) as url:
        message = refusal(url, server.thumbprint)
    assert f"answers with a redirection to '{server.url}/adv'" in message


def test_an_endless_advertisement_is_cut_off() -> None:
    with impostor(says(b"x" * (LIMIT + 8192))) as url:
        assert refusal(url, OTHER) == "the advertisement is longer than 64 KiB"


def test_a_server_that_trickles_is_given_up() -> None:
    gone = threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        says(b"")(request)
        while not gone.wait(0.1):
            request.wfile.write(b" " * 4096)

    tang = TangServers(run, timeout=0.5, attempts=1)
    with impostor(trickle) as url:
        try:
            assert refusal(url, OTHER, tang) == "no Tang server answers there: timed out"
        finally:
            gone.set()


def test_a_server_that_comes_up_late_is_asked_again(tmp_path: Path) -> None:
    calls = []
    with tang_server(tmp_path) as server:
        adv = TANG.advertisement(server.url, server.thumbprint).jws.encode()

        def second_time_lucky(request: BaseHTTPRequestHandler) -> None:
            calls.append(request.path)
            if len(calls) > 1:
                says(adv)(request)

        with impostor(second_time_lucky) as url:
            found = TangServers(run, attempts=2).advertisement(url, server.thumbprint)
    assert found.thumbprint == server.thumbprint
    assert calls == [f"/adv/{server.thumbprint}"] * 2


def test_an_advertisement_of_the_plan_is_verified_without_its_server(genuine: str) -> None:
    url = "http://10.255.255.1:7500"
    pinned = TANG.verify(url, genuine, None)
    assert pinned.url == url
    assert TANG.verify(url, genuine, pinned.thumbprint) == pinned
    with pytest.raises(StepError, match=f"is of {pinned.thumbprint}, the plan wants {OTHER}"):
        TANG.verify(url, genuine, OTHER)


def test_a_changed_advertisement_of_the_plan_is_refused(genuine: str) -> None:
    jws = json.loads(genuine)
    (first, *_) = jws.get("signatures", [jws])
    middle = len(first["signature"]) // 2
    flipped = "B" if first["signature"][middle] != "B" else "C"
    first["signature"] = first["signature"][:middle] + flipped + first["signature"][middle + 1 :]
    jws["signatures"] = [first]
    for name in ("protected", "signature"):
        jws.pop(name, None)
    with pytest.raises(StepError, match="is not signed by"):
        TANG.verify("http://tang", json.dumps(jws), None)
