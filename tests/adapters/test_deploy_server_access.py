"""Who may do what at the deploy server, and what happens to those who may not."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.adapters.plan_sources import UrlPlan
from agent.payload.sign import SigningKey
from agent.report.event import State
from agent.report.http import HttpSink
from agent.secret import Secret
from agent.server import Options, running
from agent.server.app import POSTS_AT_ONCE
from agent.server.batches import STRANGERS_LIMIT
from agent.server.events import EventStore
from agent.server.limits import Buckets, Limits
from agent.server.operators import Operator, write
from agent.server.plans import PlanStore
from tests.unit.report.receivers import event

PLAN = """version: 1
id: db01-order
machine: {serial: CZ1}
report:
  - type: http
    url: %s/v1/events
"""
PROXY = ("127.0.0.1",)
"""Believed here, so that a test may come from any address."""


@dataclass(frozen=True)
class Served:
    directory: Path
    url: str

    def get(self, path: str, **more: object) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=30, allow_redirects=False, **more)  # type: ignore[arg-type]

    def post(self, path: str, body: bytes | dict[str, str], **more: object) -> requests.Response:
        return requests.post(f"{self.url}{path}", body, timeout=30, allow_redirects=False, **more)  # type: ignore[arg-type]

    def publish(self, text: str = PLAN, name: str = "db01") -> None:
        (self.directory / "plans").mkdir(exist_ok=True)
        (self.directory / "plans" / f"{name}.yaml").write_text(text.replace("%s", self.url))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def from_(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("guarded")
    write(directory / "operators", {"alice": Operator.make("alice", Secret("sesame"))})
    options = Options(operators=directory / "operators", metrics=True)
    with running(directory, options=options) as url:
        yield Served(directory, url)


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/fleet", "/v1/fleet/x", "/v1/events?plan=x", "/metrics", "/later", "//", "/%2e"],
)
def test_what_is_not_for_machines_is_for_operators_only(guarded: Served, path: str) -> None:
    assert guarded.get(path).status_code == 401
    assert guarded.get(path, auth=("alice", "wrong")).status_code == 401
    assert guarded.get(path, auth=("alice", "sesame")).status_code in (200, 404)
    browser = guarded.get(path, headers={"Accept": "text/html,*/*"})
    assert browser.status_code == 303
    assert browser.headers["location"].startswith("/login?next=%2F")


def test_machines_need_no_operator(guarded: Served) -> None:
    guarded.publish()
    (guarded.directory / "images" / "a").write_bytes(b"a")
    assert guarded.get("/v1/plan?serial=CZ1").status_code == 200
    assert guarded.get("/v1/plans/db01").status_code == 200
    assert guarded.get("/images/a").content == b"a"
    assert guarded.get("/healthz").status_code == 200
    assert guarded.post("/v1/events", event(1).line).json() == {"accepted": 1}


def test_an_operator_logs_in_looks_and_logs_out(guarded: Served) -> None:
    with requests.Session() as session:
        form = session.get(f"{guarded.url}/?a=b", headers={"Accept": "text/html"}, timeout=30)
        assert form.url.endswith("/login?next=%2F%3Fa%3Db")
        wrong = session.post(form.url, {"name": "alice", "password": "x"}, timeout=30)
        assert (wrong.status_code, "Wrong name or password" in wrong.text) == (403, True)
        fields = {"name": "alice", "password": "sesame"}
        inside = session.post(form.url, fields, timeout=30, allow_redirects=False)
        assert (inside.status_code, inside.headers["location"]) == (303, "/?a=b")
        cookie = inside.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert session.get(f"{guarded.url}/v1/fleet", timeout=30).status_code == 200
        session.post(f"{guarded.url}/logout", timeout=30)
        assert session.get(f"{guarded.url}/v1/fleet", timeout=30).status_code == 401


@pytest.mark.parametrize(
    "place", ["//evil.example", "https://evil.example", "/\\evil", "x", "/\r\nA: b"]
)
def test_the_form_leads_to_no_other_site(guarded: Served, place: str) -> None:
    fields = {"name": "alice", "password": "sesame"}
    answer = guarded.post("/login", fields, params={"next": place})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_the_form_of_another_site_is_not_taken(guarded: Served) -> None:
    fields = {"name": "alice", "password": "sesame"}
    answer = guarded.post("/login", fields, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert guarded.post("/login", b"x" * 5000).status_code == 413
    assert guarded.post("/login", b"&".join([b"a=b"] * 100)).status_code == 400


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(["Authorization", "Cookie"]), value=st.binary(max_size=60))
def test_no_garbage_opens_the_gate_or_breaks_it(guarded: Served, name: str, value: bytes) -> None:
    clean = bytes(byte for byte in value if byte not in b"\r\n\0").strip()
    for start in (b"", b"Basic ", b"bedplate_session=", b"bedplate_session=alice:9999999999:"):
        answer = guarded.get("/v1/fleet", headers={name: start + clean})
        assert answer.status_code in (400, 401)


def test_a_port_in_the_network_shows_the_fleet_to_nobody_unless_told(tmp_path: Path) -> None:
    with running(tmp_path, "0.0.0.0:0") as url:
        served = Served(tmp_path, url.replace("0.0.0.0", "127.0.0.1"))
        assert served.get("/").status_code == 403
        assert "--operators" in served.get("/v1/fleet").text
        assert served.post("/v1/events", event(1).line).status_code == 200
        assert served.get("/v1/plan?serial=x").status_code == 404
    with running(tmp_path, "0.0.0.0:0", options=Options(everybody=True)) as url:
        assert Served(tmp_path, url.replace("0.0.0.0", "127.0.0.1")).get("/").status_code == 200


def test_a_minted_token_is_in_the_signed_plan_and_writes_its_own_events_only(
    tmp_path: Path,
) -> None:
    signer = SigningKey(Ed25519PrivateKey.generate())
    with running(tmp_path, options=Options(mint_tokens=True), signer=signer) as url:
        served = Served(tmp_path, url)
        served.publish()
        served.publish(PLAN.replace("db01-order", "other").replace("CZ1", "CZ2"), "other")
        found = UrlPlan(f"{url}/v1/plan?serial=CZ1", signed=True).read()
        assert found is not None
        assert found.signature is not None
        signer.public.key.verify(found.signature, found.content)
        token = yaml.safe_load(found.content)["report"][0]["token"]
        mine, others = event(1, plan="db01-order").line, event(1, plan="other").line
        assert served.post("/v1/events", mine).status_code == 401
        assert served.post("/v1/events", mine, headers=bearer(token)).status_code == 200
        assert served.post("/v1/events", others, headers=bearer(token)).status_code == 401
        assert served.post("/v1/events", event(1, plan="guest").line).status_code == 200
        sink = HttpSink(f"{url}/v1/events", token=Secret(token))
        assert sink.reachable("db01-order", escrow=True) is None
        assert "401" in (sink.reachable("other") or "")
        sink.close(1)
    with running(
        tmp_path, options=Options(mint_tokens=True)
    ) as url:  # it knows them after a restart
        served = Served(tmp_path, url)
        again = event(2, plan="db01-order").line
        assert served.post("/v1/events", again, headers=bearer(token)).status_code == 200


def test_with_required_tokens_a_mac_address_gets_nothing(tmp_path: Path) -> None:
    options = Options(mint_tokens=True, require_token=True)
    signer = SigningKey(Ed25519PrivateKey.generate())
    with running(tmp_path, options=options, signer=signer) as url:
        served = Served(tmp_path, url)
        served.publish()
        served.publish(PLAN.replace("db01-order", "other").replace("CZ1", "CZ2"), "other")
        refused = ["/v1/plan?serial=CZ1", "/v1/plan?serial=x", "/v1/plans/db01", "/v1/plans/x"]
        refused += ["/v1/plans/db01-order.sig", "/v1/plans/db01?token=x"]
        assert {served.get(path).status_code for path in refused} == {401}
        boot = _token(tmp_path, "db01", "--server", url)
        assert served.get(boot.removeprefix(url).replace("db01-order", "other")).status_code == 401
        by_serial = boot.replace("/v1/plans/db01-order?", "/v1/plan?serial=CZ1&")
        found = UrlPlan(boot, signed=True).read()
        assert found is not None
        assert found.signature is not None
        signer.public.key.verify(found.signature, found.content)
        again = UrlPlan(by_serial, signed=True).read()
        assert again is not None
        assert (again.content, again.signature) == (found.content, found.signature)
        report = yaml.safe_load(found.content)["report"][0]["token"]
        mine = event(1, plan="db01-order").line
        assert (
            served.post("/v1/events", mine, headers=bearer(boot.partition("=")[2])).status_code
            == 401
        )
        assert served.post("/v1/events", mine, headers=bearer(report)).status_code == 200
        assert served.post("/v1/events", event(1, plan="guest").line).status_code == 401


def _token(directory: Path, *more: str) -> str:
    argv = [sys.executable, "-m", "agent", "token", str(directory), *more]
    return subprocess.run(
        argv, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_operators_are_kept_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("sesame\n")
    argv = [sys.executable, "-m", "agent", "operator"]
    file = str(tmp_path / "operators")
    add = [*argv, "add", file, "alice", "--password-file", str(tmp_path / "password")]
    subprocess.run(add, check=True, timeout=60)
    assert (tmp_path / "operators").read_text().startswith("alice:scrypt:")
    subprocess.run([*argv, "remove", file, "alice"], check=True, timeout=60)
    assert (tmp_path / "operators").read_text() == ""
    again = subprocess.run([*argv, "remove", file, "alice"], capture_output=True, timeout=60)
    assert again.returncode == 3


def test_a_password_in_the_database_url_is_not_taken_from_the_command_line(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "agent", "serve", str(tmp_path)]
    url = "postgresql+psycopg://u:canary@h/x"
    done = subprocess.run(
        [*argv, "--database", url], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 2
    assert "--database-file" in done.stderr
    assert "canary" not in done.stderr


def few() -> Limits:
    return Limits(plans=Buckets(0.01, 5), clients=Buckets(0.01, 5), logins=Buckets(0.01, 2))


def test_who_only_makes_mistakes_has_to_wait_and_nobody_else(tmp_path: Path) -> None:
    with running(tmp_path, options=Options(proxies=PROXY, limits=few())) as url:
        served = Served(tmp_path, url)
        served.publish()
        bad = from_("10.0.0.66")
        codes = [served.get(f"/v1/plan?serial={n}", headers=bad).status_code for n in range(8)]
        assert codes == [404] * 5 + [429] * 3
        refused = served.post("/v1/events", b"garbage", headers=bad)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 101
        for number in range(20):
            good = from_("10.0.0.1")
            assert served.get("/v1/plan?serial=CZ1", headers=good).status_code == 200
            assert served.get("/v1/plan?serial=CZ1").status_code == 200
            assert served.get(f"/v1/plan?serial={number}").status_code == 404  # loopback


def test_a_plan_that_sends_too_often_is_asked_to_wait_and_the_agent_does(tmp_path: Path) -> None:
    limits = Limits(plans=Buckets(1, 1))
    with running(tmp_path, options=Options(limits=limits)) as url:
        served = Served(tmp_path, url)
        served.publish()
        sink = HttpSink(f"{url}/v1/events")
        for number in range(1, 4):
            sink(event(number, State.FINISHED, plan="db01-order"))
        refused = served.post("/v1/events", event(9, plan="db01-order").line)
        while refused.status_code == 200:  # the sink was slower than a second
            refused = served.post("/v1/events", event(9, plan="db01-order").line)
        assert refused.status_code == 429
        assert sink.flush(30)
        sink.close(1)
        told = served.get("/v1/events?plan=db01-order").text.splitlines()
        assert sorted(json.loads(line)["seq"] for line in told)[:3] == [1, 2, 3]


def test_passwords_cannot_be_tried_for_long(tmp_path: Path) -> None:
    write(tmp_path / "operators", {"alice": Operator.make("alice", Secret("sesame"))})
    options = Options(proxies=PROXY, limits=few(), operators=tmp_path / "operators")
    with running(tmp_path, options=options) as url:
        served, bad = Served(tmp_path, url), from_("10.0.0.66")
        tries = {"name": "alice", "password": "x"}
        codes = [served.post("/login", tries, headers=bad).status_code for _ in range(4)]
        assert codes == [403, 403, 429, 429]
        codes = [
            served.get("/v1/fleet", auth=("alice", f"{n}"), headers=bad).status_code
            for n in range(7)
        ]
        assert codes[-1] == 429
        right = served.get("/v1/fleet", auth=("alice", "sesame"), headers=bad)
        assert right.status_code == 429
        good = from_("10.0.0.1")
        assert served.get("/v1/fleet", auth=("alice", "sesame"), headers=good).status_code == 200


def test_strangers_are_refused_by_name_once_there_are_too_many(tmp_path: Path) -> None:
    limits = Limits(clients=Buckets(0.01, 1000))
    with running(tmp_path, options=Options(proxies=PROXY, limits=limits)) as url:
        served, far = Served(tmp_path, url), from_("10.0.0.1")
        many = EventStore(tmp_path / "events", tmp_path, PlanStore(tmp_path))
        for number in range(STRANGERS_LIMIT):
            many.take(event(1, plan=f"stranger-{number}").line, token="", plan="")
        many.close()
        refused = served.post("/v1/events", event(1, plan="one-more").line, headers=far)
        assert refused.status_code == 507
        assert "too many plans" in refused.text
        known = served.post("/v1/events", event(2, plan="stranger-7").line, headers=far)
        assert known.status_code == 200


def test_a_server_with_too_much_to_do_says_so_before_anybody_gives_up(tmp_path: Path) -> None:
    """Somebody else holds the database; as many as can be worked on wait for it, others do not."""
    with running(tmp_path, options=Options(patience=0.3)) as url:
        served = Served(tmp_path, url)
        assert served.post("/v1/events", event(1).line).status_code == 200
        answers: dict[int, requests.Response] = {}

        def machine(number: int) -> None:
            answers[number] = served.post("/v1/events", event(1, plan=f"plan-{number}").line)

        machines = [threading.Thread(target=machine, args=(n,)) for n in range(POSTS_AT_ONCE + 20)]
        with contextlib.closing(sqlite3.connect(tmp_path / "bedplate.sqlite")) as other:
            other.execute("BEGIN IMMEDIATE")
            for each in machines:
                each.start()
            time.sleep(4)  # until all of them have come
            other.rollback()
        for each in machines:
            each.join()
        codes = Counter(answer.status_code for answer in answers.values())
        assert codes[200] > 0
        assert codes[200] + codes[503] == len(machines)
        assert codes[503] > 0
        for answer in answers.values():
            assert answer.status_code == 200 or 2 <= int(answer.headers["retry-after"]) <= 11
        # What was refused was not stored, and what was stored was not refused.
        stored = [served.get(f"/v1/events?plan=plan-{n}").status_code for n in range(len(machines))]
        assert [code == 200 for code in stored] == [
            answers[n].status_code == 200 for n in range(len(machines))
        ]
