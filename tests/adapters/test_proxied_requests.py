"""`bedplate.proxy=`: plans and events take the way of the images."""

from __future__ import annotations

import ssl
from pathlib import Path

from agent.adapters.plan_sources import UrlPlan
from agent.proxy import Proxies, Proxy
from agent.report.http import HttpSink
from tests.adapters.certificates import self_signed
from tests.adapters.crooked import Crooked
from tests.adapters.forwarder import Forwarder
from tests.adapters.receiver import Receiver
from tests.unit.report.receivers import event

LOGIN = "fleet:s3cret"
PLAN = b"version: 1\n"


def through(forwarder: Forwarder, *direct: str) -> Proxies:
    return Proxies.through(Proxy.parse(forwarder.url.replace("//", f"//{LOGIN}@")), direct)


def test_a_plan_comes_through_the_proxy_which_alone_sees_its_password() -> None:
    with Crooked({"plan.yaml": PLAN}) as server, Forwarder(LOGIN) as forwarder:
        url = server.url("plan.yaml")
        found = UrlPlan(url, patience=5, proxies=through(forwarder)).read()
        assert found is not None
        assert found.content == PLAN
        assert forwarder.asked == [f"GET {url} HTTP/1.1"]
        assert not any("Proxy-Authorization" in request.headers for request in server.requests)


def test_a_plan_over_tls_is_tunnelled(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Crooked({"plan.yaml": PLAN}, tls=context) as server, Forwarder(LOGIN) as forwarder:
        url = server.url("plan.yaml")
        found = UrlPlan(url, certificate, patience=5, proxies=through(forwarder)).read()
        assert found is not None
        assert [line.split()[0] for line in forwarder.asked] == ["CONNECT"]


def test_a_host_that_is_excepted_is_asked_directly() -> None:
    with Crooked({"plan.yaml": PLAN}) as server, Forwarder(LOGIN) as forwarder:
        proxies = through(forwarder, "127.0.0.0/8")
        assert UrlPlan(server.url("plan.yaml"), patience=5, proxies=proxies).read() is not None
        assert forwarder.asked == []


def test_events_go_through_the_proxy() -> None:
    with Receiver() as receiver, Forwarder(LOGIN) as forwarder:
        sink = HttpSink(receiver.url, proxies=through(forwarder))
        assert sink.reachable("plan-1") is None
        sink(event())
        sink.close(30)
        assert [request.body for request in receiver.requests] == [b"", event().line]
        assert forwarder.asked == [f"POST {receiver.url} HTTP/1.1"] * len(forwarder.asked)
        assert forwarder.asked
