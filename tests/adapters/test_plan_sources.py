"""Where a plan comes from, over real HTTP on loopback and from real files."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.adapters.plan_sources import CredentialPlan, UrlPlan
from agent.errors import MachineError, PlanError
from agent.find import PLAN_LIMIT, Found, find_plan
from agent.plan.parse import parse
from tests.adapters.certificates import self_signed
from tests.adapters.crooked import (
    Crooked,
    Cut,
    CutBody,
    Endless,
    Fault,
    Garbage,
    Gzip,
    Redirect,
    Request,
    Script,
    Status,
)
from tests.adapters.daemons import free_port

PLAN = b"version: 1\n" + b"# a plan\n" * 5000


def script(*faults: Fault | None) -> Script:
    """Spoil the first answers, one fault each; the last fault stays."""
    left = list(faults)

    def choose(request: Request) -> Fault | None:
        return left.pop(0) if len(left) > 1 else left[0]

    return choose


@contextmanager
def serving(*faults: Fault | None, content: bytes = PLAN) -> Iterator[Crooked]:
    with Crooked({"plan.yaml": content}, script(*(faults or (None,)))) as server:
        yield server


def refusal(source: UrlPlan | CredentialPlan) -> str:
    with pytest.raises(MachineError) as caught:
        source.read()
    assert caught.value.exit_status == 4
    (problem,) = caught.value.problems
    return str(problem)


# --- a URL ---


def test_a_plan_is_read_from_its_url_byte_by_byte() -> None:
    with serving() as server:
        url = server.url("plan.yaml")
        assert UrlPlan(url).read() == Found(url, PLAN, url=url)


def test_a_compressing_proxy_changes_nothing() -> None:
    with serving(Gzip()) as server:
        found = UrlPlan(server.url("plan.yaml")).read()
        assert found is not None
        assert found.content == PLAN


def test_a_redirect_is_followed() -> None:
    with serving() as there, serving(Redirect(there.url("plan.yaml"))) as here:
        found = UrlPlan(here.url("old.yaml")).read()
        assert found is not None
        assert (found.where, found.content) == (here.url("old.yaml"), PLAN)


def test_without_a_url_there_is_nothing_to_read() -> None:
    assert UrlPlan(None).read() is None
    assert "bedplate.plan=" in UrlPlan(None).describe()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_server_that_has_no_plan_is_believed_at_once(status: int) -> None:
    with serving(Status(status)) as server:
        url = server.url("plan.yaml")
        assert refusal(UrlPlan(url)) == f"plan: {url}: the server says {status}: no"
        assert len(server.requests) == 1


def test_a_plan_that_was_asked_for_and_is_missing_is_not_replaced_by_another(
    tmp_path: Path,
) -> None:
    (tmp_path / "bedplate.plan").write_bytes(PLAN)
    with serving(Status(404)) as server, pytest.raises(MachineError, match="404"):
        find_plan([UrlPlan(server.url("plan.yaml")), CredentialPlan((tmp_path,))])
    assert find_plan([UrlPlan(None), CredentialPlan((tmp_path,))]).content == PLAN


@pytest.mark.parametrize(
    "fault",
    [Status(503), Status(500), Status(429), Cut(5), CutBody(100), Garbage()],
    ids=lambda fault: str(fault),
)
def test_a_server_that_recovers_is_asked_again(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(fault, None) as server:
        found = UrlPlan(server.url("plan.yaml"), patience=20).read()
        assert found is not None
        assert found.content == PLAN
        assert len(server.requests) == 2
    assert "trying again" in caplog.text


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    with serving(Status(429, retry_after="3"), None) as server:
        began = time.monotonic()
        assert UrlPlan(server.url("plan.yaml")).read() is not None
        assert time.monotonic() - began >= 3


@pytest.mark.parametrize(
    ("fault", "reason"), [(Status(503), "503 Whatever"), (CutBody(100), "bytes read")]
)
def test_a_server_that_does_not_recover_is_given_up_with_its_last_word(
    fault: Fault, reason: str
) -> None:
    with serving(fault) as server:
        url = server.url("plan.yaml")
        said = refusal(UrlPlan(url, patience=0.3))
        assert said.startswith(f"plan: {url}: no answer in 0 s: ")
        assert reason in said
        assert len(server.requests) >= 1


def test_a_server_that_comes_up_late_is_waited_for() -> None:
    port = free_port()
    up = threading.Event()

    def come_up() -> None:
        time.sleep(0.3)
        with Crooked({"plan.yaml": PLAN}, port=port):
            up.wait(30)

    thread = threading.Thread(target=come_up)
    thread.start()
    try:
        found = UrlPlan(f"http://127.0.0.1:{port}/plan.yaml", patience=30).read()
    finally:
        up.set()
        thread.join()
    assert found is not None
    assert found.content == PLAN


def test_nobody_there_is_said_in_plain_words() -> None:
    url = f"http://127.0.0.1:{free_port()}/plan.yaml"
    said = refusal(UrlPlan(url, patience=0.3))
    assert said.startswith(f"plan: {url}: no answer in 0 s: ")
    assert "Connection refused" in said
    assert "HTTPConnectionPool" not in said


@pytest.mark.parametrize("url", ["htp://x/plan", "x/plan", "http://", "http://[::1/plan"])
def test_a_url_that_is_none_is_not_tried_for_minutes(url: str) -> None:
    began = time.monotonic()
    assert refusal(UrlPlan(url)).startswith(f"plan: {url}: ")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("fault", [None, Endless()], ids=["announced", "endless"])
def test_what_is_too_large_is_not_read_to_its_end_and_no_plan(fault: Fault | None) -> None:
    with serving(fault, content=b"#" * (8 * PLAN_LIMIT)) as server:
        found = UrlPlan(server.url("plan.yaml")).read()
    assert found is not None
    assert len(found.content) == PLAN_LIMIT + 1
    with pytest.raises(PlanError, match="at most 1048576 are read"):
        parse(found.content)


def test_a_server_whose_certificate_nobody_vouches_for_is_not_asked_again(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    tls.load_cert_chain(certificate, key)
    with Crooked({"plan.yaml": PLAN}, tls=tls) as server:
        url = server.url("plan.yaml")
        said = refusal(UrlPlan(url))
        assert said.startswith(f"plan: {url}: ")
        assert "certificate verify failed" in said
        found = UrlPlan(url, ca_bundle=certificate).read()
        assert found is not None
        assert found.content == PLAN


@pytest.mark.parametrize(
    ("after", "said"),
    [(timedelta(days=90), "not yet valid"), (timedelta(days=-90), "certificate has expired")],
)
def test_a_certificate_out_of_its_time_is_told_with_the_clock_that_judged_it(
    tmp_path: Path, after: timedelta, said: str
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = self_signed(tmp_path, "127.0.0.1", after)
    tls.load_cert_chain(certificate, key)
    with Crooked({"plan.yaml": PLAN}, tls=tls) as server:
        told = refusal(UrlPlan(server.url("plan.yaml"), ca_bundle=certificate))
    assert said in told
    assert f"this machine's clock says {datetime.now(UTC):%Y-}" in told


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_server_that_hangs_up_in_the_handshake_is_asked_again(
    tmp_path: Path, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    tls.load_cert_chain(certificate, key)
    down, up = threading.Event(), threading.Event()
    before = socket.create_server(("127.0.0.1", 0))
    port = before.getsockname()[1]

    def restart() -> None:
        """Hang up on the first who greets, as what is going down does, and come up again."""
        with before:
            connection, _ = before.accept()
            connection.recv(4096)
            if reset:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
        down.set()
        with Crooked({"plan.yaml": PLAN}, port=port, tls=tls):
            up.wait(60)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        url = f"https://127.0.0.1:{port}/plan.yaml"
        found = UrlPlan(url, ca_bundle=certificate, patience=60).read()
        assert down.is_set()
    finally:
        up.set()
        thread.join()
    assert found is not None
    assert found.content == PLAN
    assert "trying again" in caplog.text


def test_a_server_that_always_hangs_up_is_given_up_in_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.recv(4096)
                    connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/plan.yaml"
        said = refusal(UrlPlan(url, patience=0.3))
    assert said.startswith(f"plan: {url}: no answer in 0 s: TLS: ")


# --- a credential ---


def test_a_credential_is_looked_for_in_every_directory(tmp_path: Path) -> None:
    first, second = tmp_path / "unit", tmp_path / "system"
    second.mkdir()
    source = CredentialPlan((first, second))
    assert source.read() is None
    (second / "bedplate.plan").write_bytes(PLAN)
    assert source.read() == Found("credential bedplate.plan", PLAN)
    first.mkdir()
    (first / "bedplate.plan").write_bytes(b"nearer")
    assert source.read() == Found("credential bedplate.plan", b"nearer")


def test_a_credential_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bedplate.plan").mkdir()
    said = refusal(CredentialPlan((tmp_path,)))
    assert said == f"{tmp_path}/bedplate.plan: cannot be read: {os.strerror(errno.EISDIR)}"
