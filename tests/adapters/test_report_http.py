"""The HTTP sink against receivers on real sockets: good ones, bad ones, and none at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from agent.errors import StepError
from agent.report.event import Event, State, envelope_evidence
from agent.report.http import HttpSink
from agent.report.reporter import Reporter
from agent.secret import Secret
from agent.server import Tls, running
from tests.adapters.certificates import self_signed
from tests.adapters.receiver import Receiver, Reply, Request, accept, free_port
from tests.unit.report.receivers import event

DER = b"\x30\x03\x02\x01\x05"
DIGEST = hashlib.sha256(DER).hexdigest()
ESCROW = event(9, State.PROGRESS, step="escrow", evidence=envelope_evidence(DER, {"luks": "u"}))


@contextlib.contextmanager
def sinking(url: str, **options: object) -> Iterator[HttpSink]:
    sink = HttpSink(url, **options)  # type: ignore[arg-type]  # passed through
    try:
        yield sink
    finally:
        sink.close(5)


def steps(sink: HttpSink, *seqs: int) -> None:
    for seq in seqs:
        sink(event(seq))


def test_events_arrive_in_order_with_the_token() -> None:
    with Receiver() as receiver:
        with sinking(receiver.url, token=Secret("sesame")) as sink:
            steps(sink, *range(1, 1201))
        assert receiver.seqs == list(range(1, 1201))
        assert len(receiver.requests) < 30
        headers = receiver.requests[0].headers
        assert headers["authorization"] == "Bearer sesame"
        assert headers["content-type"] == "application/x-ndjson"


def test_progress_is_gathered_into_few_requests() -> None:
    with Receiver() as receiver:
        with sinking(receiver.url) as sink:
            for seq in range(1, 6):
                sink(event(seq, State.PROGRESS))
                time.sleep(0.02)
            sink(event(6, State.FINISHED))
            assert sink.flush(5)
        assert len(receiver.requests) <= 2
        assert receiver.seqs == [1, 2, 3, 4, 5, 6]


def test_a_sink_that_is_down_loses_progress_only_and_gets_the_rest_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    with sinking(f"http://127.0.0.1:{port}/v1/events", progress_kept=10) as sink:
        for seq in range(1, 101):
            sink(event(seq, State.PROGRESS if seq % 10 else State.FINISHED))
        time.sleep(0.3)
        with Receiver(port=port) as receiver:
            assert sink.flush(10)
            seqs = receiver.seqs
    finished = {seq for seq in range(1, 101) if seq % 10 == 0}
    assert finished <= set(seqs)
    assert seqs == sorted(set(seqs))
    assert "events are kept until it answers" in caplog.text
    assert caplog.text.count("events are kept until it answers") == 1


def test_a_server_restarted_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    """The reference server itself, three lives on one port; the reporter never waits for it."""
    listen = f"127.0.0.1:{free_port()}"
    sink = HttpSink(f"http://{listen}/v1/events")
    told = Reporter("plan-1", "m", [sink])
    slowest = 0.0
    for life in range(3):
        with running(tmp_path, listen):
            for number in range(60):
                began = time.monotonic()
                with told.step(f"step-{life}-{number}"):
                    pass
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.002)
    with running(tmp_path, listen):
        told.final({})
        told.close(10)
        stored = requests.get(f"http://{listen}/v1/events?plan=plan-1", timeout=30)
    assert [Event.from_json(line).seq for line in stored.iter_lines()] == list(range(1, 362))
    assert slowest < 2  # a stop of the server takes longer


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422, 301, 307])
def test_a_refused_batch_is_dropped_and_said_once(
    caplog: pytest.LogCaptureFixture, status: int
) -> None:
    def refuse_first(request: Request, number: int) -> Reply:
        return Reply(status, b"no: \x1b[31m") if number < 2 else accept(request, number)

    with Receiver(refuse_first) as receiver, sinking(receiver.url) as sink:
        for seq in (1, 2, 3):
            sink(event(seq))
            assert sink.flush(5)
        assert [request.events[0].seq for request in receiver.requests] == [1, 2, 3]
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"answers {status}" in warnings[0].getMessage()
    assert "\x1b" not in warnings[0].getMessage()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 507])
def test_a_sink_that_is_busy_is_asked_again(status: int) -> None:
    def busy_first(request: Request, number: int) -> Reply:
        return Reply(status) if number < 2 else accept(request, number)

    with Receiver(busy_first) as receiver, sinking(receiver.url) as sink:
        steps(sink, 1)
        assert sink.flush(10)
        assert receiver.seqs == [1, 1, 1]


def test_the_wait_the_sink_asks_for_is_kept() -> None:
    def later(request: Request, number: int) -> Reply:
        return Reply(429, headers={"Retry-After": "2"}) if number == 0 else accept(request, number)

    with Receiver(later) as receiver, sinking(receiver.url) as sink:
        steps(sink, 1)
        assert sink.flush(10)
        assert receiver.requests[1].at - receiver.requests[0].at >= 2


def test_a_batch_that_is_too_large_goes_out_in_smaller_ones() -> None:
    def small(request: Request, number: int) -> Reply:
        return Reply(413) if len(request.events) > 3 else accept(request, number)

    with Receiver(small) as receiver, sinking(receiver.url) as sink:
        steps(sink, *range(1, 21))
        assert sink.flush(10)
        taken = [r.events for r in receiver.requests if len(r.events) <= 3]
        assert [each.seq for batch in taken for each in batch] == list(range(1, 21))


def test_what_a_sink_did_not_accept_is_sent_again() -> None:
    def half(request: Request, number: int) -> Reply:
        highest = request.events[-1].seq
        return Reply(body=json.dumps({"accepted": min(highest, 2 + 3 * number)}).encode())

    with Receiver(half) as receiver, sinking(receiver.url) as sink:
        steps(sink, *range(1, 9))
        assert sink.flush(10)
        assert receiver.requests[-1].events[-1].seq == 8
        assert sorted(set(receiver.seqs)) == list(range(1, 9))


@pytest.mark.parametrize(
    "body", [b"", b"ok", b"[]", b'{"accepted":"x"}', b"{" * 9000, b"x" * 10**6]
)
def test_any_answer_of_200_is_good_enough_from_a_foreign_receiver(body: bytes) -> None:
    with Receiver(lambda *_: Reply(200, body)) as receiver, sinking(receiver.url) as sink:
        steps(sink, 1, 2)
        assert sink.flush(5)
        assert set(receiver.seqs) == {1, 2}


def test_a_redirect_is_not_followed_and_the_token_stays_here() -> None:
    with Receiver() as elsewhere:

        def redirect(request: Request, number: int) -> Reply:
            return Reply(307, headers={"Location": elsewhere.url})

        with Receiver(redirect) as receiver:
            with sinking(receiver.url, token=Secret("sesame")) as sink:
                steps(sink, 1)
                assert sink.flush(5)
            assert len(receiver.requests) == 1
        assert elsewhere.requests == []


def test_closing_sends_what_waits() -> None:
    with Receiver() as receiver:
        sink = HttpSink(receiver.url)
        for seq in range(1, 50):
            sink(event(seq, State.PROGRESS))
        sink.close(5)
        assert receiver.seqs == list(range(1, 50))


def test_closing_waits_for_a_sink_that_comes_back_in_time() -> None:
    port = free_port()
    sink = HttpSink(f"http://127.0.0.1:{port}/x")
    steps(sink, 1, 2)
    time.sleep(1.5)  # long pauses by now: closing must cut them short
    receiver = Receiver(port=port)
    timer = threading.Timer(0.5, receiver.__enter__)
    timer.start()
    began = time.monotonic()
    sink.close(8)
    took = time.monotonic() - began
    timer.join()
    receiver.__exit__()
    assert receiver.seqs == [1, 2]
    assert took < 6


@pytest.mark.parametrize("kind", ["refusing", "silent"])
def test_closing_gives_up_in_time_and_says_what_is_left(
    caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if kind == "silent" else free_port()
        sink = HttpSink(f"http://127.0.0.1:{port}/x")
        steps(sink, 1, 2, 3)
        time.sleep(0.2)
        began = time.monotonic()
        sink.close(1)
        assert time.monotonic() - began < 4
    assert "3 events were not delivered" in caplog.text


def acknowledge(digest: str) -> Reply:
    return Reply(body=json.dumps({"accepted": 9, "acknowledged": digest}).encode())


def test_an_envelope_is_delivered_alone_and_its_acknowledgement_returned() -> None:
    with Receiver(lambda *_: acknowledge(DIGEST.upper())) as receiver:
        with sinking(receiver.url, token=Secret("sesame")) as sink:
            assert sink.deliver(ESCROW, 5) == DIGEST
        assert [request.events for request in receiver.requests] == [[ESCROW]]
        assert receiver.requests[0].headers["authorization"] == "Bearer sesame"


def test_an_envelope_comes_after_the_events_before_it() -> None:
    def keep(request: Request, number: int) -> Reply:
        return acknowledge(DIGEST) if request.events == [ESCROW] else accept(request, number)

    with Receiver(keep) as receiver, sinking(receiver.url) as sink:
        steps(sink, 1, 2)
        sink(ESCROW)  # what the reporter does with every event; it must not go out twice
        sink.deliver(ESCROW, 5)
        steps(sink, 10)
        assert sink.flush(5)
        assert receiver.seqs == [1, 2, 9, 10]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (acknowledge("00" * 32), f"acknowledged {'00' * 32}, the envelope's sha256 is {DIGEST}"),
        (acknowledge(DIGEST[:-1]), "the envelope's sha256 is"),
        (acknowledge("\x1b[2J"), r"acknowledged \x1b[2j, the envelope's"),
        (Reply(), "took the envelope but acknowledged nothing"),
        (Reply(204, b""), "took the envelope but acknowledged nothing"),
        (Reply(200, b'{"acknowledged": true}'), "acknowledged nothing"),
        (Reply(403, b"not yours"), "answers 403: not yours"),
        (Reply(302, headers={"Location": "/"}), "redirects are not followed"),
    ],
)
def test_an_envelope_that_is_not_acknowledged_stops_the_install_at_once(
    reply: Reply, reason: str
) -> None:
    with Receiver(lambda *_: reply) as receiver, sinking(receiver.url) as sink:
        with pytest.raises(StepError) as caught:
            sink.deliver(ESCROW, 60)
        assert reason in str(caught.value)
        assert receiver.url in str(caught.value)
        assert len(receiver.requests) == 1


def test_an_envelope_is_offered_again_until_the_sink_is_up() -> None:
    port = free_port()
    receiver = Receiver(lambda _, number: acknowledge(DIGEST) if number else Reply(503), port=port)
    timer = threading.Timer(0.4, receiver.__enter__)
    timer.start()
    with sinking(f"http://127.0.0.1:{port}/x") as sink:
        assert sink.deliver(ESCROW, 20) == DIGEST
    timer.join()
    receiver.__exit__()


def test_an_envelope_that_cannot_be_delivered_in_time_names_sink_and_reason() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/events"
    with sinking(url) as sink:
        began = time.monotonic()
        with pytest.raises(StepError, match=f"escrow: {url}: not reachable: Connection refused"):
            sink.deliver(ESCROW, 1)
        assert time.monotonic() - began < 10


def test_only_an_envelope_can_be_delivered() -> None:
    with sinking("http://127.0.0.1:9/x") as sink, pytest.raises(StepError, match="no envelope"):
        sink.deliver(event(), 5)


def test_a_batch_that_makes_the_server_fail_does_not_hold_up_the_envelope() -> None:
    def fragile(request: Request, number: int) -> Reply:
        return acknowledge(DIGEST) if request.events == [ESCROW] else Reply(500)

    with Receiver(fragile) as receiver:
        sink = HttpSink(receiver.url)
        steps(sink, 1)
        assert sink.deliver(ESCROW, 10) == DIGEST
        sink.close(0.2)


def test_a_sink_that_works_is_reachable_and_hears_nothing_new() -> None:
    with Receiver() as receiver, sinking(receiver.url, token=Secret("sesame")) as sink:
        assert sink.reachable("plan-1") is None
        (request,) = receiver.requests
        assert request.body == b""
        assert request.headers["bedplate-plan"] == "plan-1"
        assert request.headers["authorization"] == "Bearer sesame"
        assert "does not say that it keeps envelopes" in str(sink.reachable(escrow=True))


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "answers 401: who?"), (503, "answers 503"), (404, "answers 404")]
)
def test_why_a_sink_cannot_be_used_is_said_before_anything_is_touched(
    status: int, reason: str
) -> None:
    with Receiver(lambda *_: Reply(status, b"who?")) as receiver, sinking(receiver.url) as sink:
        assert f"{receiver.url}: {reason}" in str(sink.reachable())


def test_a_sink_that_is_down_is_not_reachable() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/events"
    with sinking(url) as sink:
        assert sink.reachable() == f"{url}: not reachable: Connection refused"


def test_a_host_that_nobody_knows_is_not_reachable() -> None:
    with sinking("http://no-such-host.invalid/v1/events") as sink:
        assert "http://no-such-host.invalid/v1/events: not reachable: " in str(sink.reachable())


def test_only_a_trusted_certificate_is_talked_to(tmp_path: Path) -> None:
    tls = Tls(*self_signed(tmp_path, "127.0.0.1"))
    (tmp_path / "site").mkdir()
    with running(tmp_path / "site", tls=tls) as url:
        with sinking(f"{url}/v1/events", ca=tls.certificate) as trusting:
            assert trusting.reachable("plan-1", escrow=True) is None
            steps(trusting, 1)
            assert trusting.flush(5)
        with sinking(f"{url}/v1/events") as strict:
            assert "TLS: self-signed certificate" in str(strict.reachable()).replace(
                "self signed", "self-signed"
            )
        with sinking(f"{url.replace('127.0.0.1', 'localhost')}/v1/events", ca=tls.certificate) as s:
            assert "TLS: " in str(s.reachable())


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "deploy.example.com", "http://", "http://h:0/", "http://h:x/"]
)
def test_a_url_that_cannot_be_posted_to_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        HttpSink(url)


def test_neither_token_nor_what_may_be_secret_in_the_url_is_ever_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    reply = Reply(403, b"no")
    with Receiver(lambda _, number: reply if number else Reply(500)) as receiver:
        url = receiver.url.replace("http://", "http://user:canary@")
        with sinking(url, token=Secret("canary")) as sink:
            steps(sink, 1)
            assert sink.flush(10)
            problem = sink.reachable("plan-1")
            with pytest.raises(StepError) as caught:
                sink.deliver(ESCROW, 5)
    assert "canary" not in f"{caplog.text}{problem}{caught.value}{sink!r}{sink.name}"
    assert "answers 403" in caplog.text


def test_the_receiver_in_the_documentation_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        with sinking(f"http://127.0.0.1:{port}/") as sink:
            steps(sink, 1, 2, 3)
            assert sink.flush(20)
            assert sink.reachable("plan-1", escrow=True) is None
            assert sink.deliver(ESCROW, 10) == DIGEST
    finally:
        process.kill()
        process.wait()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [Event.from_json(line).seq for line in lines] == [1, 2, 3, 9]
    assert (tmp_path / f"{DIGEST}.p7m").read_bytes() == DER
