"""Traces, metrics and the webhook, each against a real receiver on loopback."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agent.report.event import Event, State
from agent.report.http import HttpSink
from agent.report.reporter import Reporter
from agent.secret import Secret
from agent.server import Options, running
from agent.server.batches import Stored
from agent.server.webhook import SIGNATURE, Webhook, cloud_event
from tests.unit.report.receivers import event


class Collector:
    """Takes every POST and keeps (headers, body); answers with `status`, one for each."""

    def __init__(self, *statuses: int) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.statuses = list(statuses)
        self.changed = threading.Condition()
        outer = self

        class Taking(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with outer.changed:
                    outer.taken.append(({k.lower(): v for k, v in self.headers.items()}, body))
                    status = outer.statuses.pop(0) if outer.statuses else 200
                    outer.changed.notify_all()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def until(self, met: Callable[[], bool], timeout: float = 30) -> None:
        with self.changed:
            assert self.changed.wait_for(met, timeout), f"{len(self.taken)} requests came"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def spans(collector: Collector) -> list[tuple[Any, dict[str, Any]]]:
    """Return every span that came, with its attributes."""
    found = []
    for _, body in collector.taken:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            assert names["service.name"] == "bedplate"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    values = {a.key: a.value for a in span.attributes}
                    found.append((span, values))
    return found


def installation(url: str) -> None:
    told = Reporter("plan-1", "m", [HttpSink(f"{url}/v1/events")], run="run-1")
    told.announce([("check", "Check"), ("image", "Write")])
    with told.step("check"):
        time.sleep(0.05)
    with contextlib.suppress(RuntimeError), told.step("image") as step:
        step.progress(1, 2, "bytes")
        raise RuntimeError("disk gone")
    told.final({}, error="disk gone")
    told.close(30)


def test_an_installation_is_a_trace_and_each_step_a_span(
    tmp_path: Path, collector: Collector
) -> None:
    with running(tmp_path, options=Options(otlp=f"{collector.url}/v1/traces")) as url:
        installation(url)
        requests.post(f"{url}/v1/events", event(1, State.FINISHED, run="other").line, timeout=30)
    by_name = {span.name: (span, values) for span, values in spans(collector)}
    assert sorted(by_name) == ["check", "encrypt", "image", "install"]
    root, about = by_name["install"]
    check, image = by_name["check"][0], by_name["image"][0]
    assert len(root.trace_id) == 16
    assert check.trace_id == image.trace_id == root.trace_id != by_name["encrypt"][0].trace_id
    assert check.parent_span_id == image.parent_span_id == root.span_id
    assert root.parent_span_id == b""
    assert len({root.span_id, check.span_id, image.span_id}) == 3
    assert about["bedplate.plan"].string_value == "plan-1"
    assert about["bedplate.run"].string_value == "run-1"
    assert by_name["image"][1]["bedplate.done"].int_value == 1
    assert check.status.code == check.status.STATUS_CODE_OK
    assert (image.status.code, root.status.message) == (image.status.STATUS_CODE_ERROR, "disk gone")
    took = (check.end_time_unix_nano - check.start_time_unix_nano) / 1e9
    assert 0.04 < took < 20
    assert root.start_time_unix_nano <= check.start_time_unix_nano
    assert check.end_time_unix_nano <= image.end_time_unix_nano <= root.end_time_unix_nano


def test_a_restarted_server_goes_on_in_the_same_trace(tmp_path: Path, collector: Collector) -> None:
    for number in (1, 2):
        with running(tmp_path, options=Options(otlp=f"{collector.url}/v1/traces")) as url:
            step = event(number, State.FINISHED, step=f"step-{number}")
            requests.post(
                f"{url}/v1/events", event(1, State.FINISHED, step="step-1").line, timeout=30
            )
            requests.post(f"{url}/v1/events", step.line, timeout=30)
    found = [span for span, _ in spans(collector)]
    assert [span.name for span in found] == ["step-1", "step-2"]  # a replay is no second span
    assert found[0].trace_id == found[1].trace_id
    assert found[0].parent_span_id == found[1].parent_span_id


def test_a_collector_that_is_down_stops_nothing(tmp_path: Path) -> None:
    with running(tmp_path, options=Options(otlp="http://127.0.0.1:9/v1/traces")) as url:
        for number in range(1, 30):
            sent = event(number, State.FINISHED).line
            assert requests.post(f"{url}/v1/events", sent, timeout=30).status_code == 200


def test_prometheus_is_told_what_is_going_on(tmp_path: Path) -> None:
    with running(tmp_path, options=Options(metrics=True)) as url:
        (tmp_path / "plans" / "a.yaml").write_text("id: waiting-one\n")
        told = (
            event(1, step="image"),
            event(2, State.FINISHED, step="image", done=4096, total=4096, unit="bytes"),
            event(3, State.FINISHED, step="install"),
        )
        body = b"".join(each.line for each in told)
        for _ in range(2):
            requests.post(f"{url}/v1/events", body, timeout=30)
        requests.post(f"{url}/v1/events", b"garbage", timeout=30)
        answer = requests.get(f"{url}/metrics", timeout=30)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = dict(re.findall(r"^(bedplate_[^ ]+) ([^ ]+)$", answer.text, re.MULTILINE))
    assert float(found["bedplate_events_total"]) == 3
    assert float(found["bedplate_event_bytes_total"]) == len(body)
    assert float(found["bedplate_written_bytes_total"]) == 4096
    assert float(found["bedplate_post_seconds_count"]) == 2
    assert float(found['bedplate_refused_total{status="400"}']) == 1
    assert float(found['bedplate_machines{state="installed"}']) == 1
    assert float(found['bedplate_machines{state="waiting"}']) == 1
    assert float(found["bedplate_escrow_envelopes"]) == 0


def test_there_are_no_metrics_unless_asked_for(tmp_path: Path) -> None:
    with running(tmp_path) as url:
        assert requests.get(f"{url}/metrics", timeout=30).status_code == 404


def test_events_become_cloud_events_each_once_signed_and_in_order(
    tmp_path: Path, collector: Collector
) -> None:
    collector.statuses = [503, 500]
    options = Options(webhook=f"{collector.url}/hook", webhook_secret=Secret("key"))
    with running(tmp_path, options=options) as url:
        body = event(1).line + event(2, State.PROGRESS, done=1).line + event(3, State.FAILED).line
        for _ in range(2):
            requests.post(f"{url}/v1/events", body, timeout=30)
        collector.until(lambda: len(collector.taken) == 4)
    for headers, content in collector.taken:
        assert headers["content-type"].startswith("application/cloudevents+json")
        signed = hmac.new(b"key", content, hashlib.sha256).hexdigest()
        assert headers[SIGNATURE.lower()] == f"sha256={signed}"
    first, *_, last = [json.loads(content) for _, content in collector.taken]
    assert [json.loads(content)["data"]["seq"] for _, content in collector.taken] == [1, 1, 1, 3]
    assert first["specversion"] == "1.0"
    assert (first["type"], last["type"]) == (
        "io.bedplate.step.started",
        "io.bedplate.step.failed",
    )
    assert (first["source"], first["subject"]) == ("/bedplate/plans/plan-1", "encrypt")
    assert first["time"] == "2023-11-14T22:13:21.000Z"
    assert first["data"] == json.loads(event(1).line)
    assert first["id"] != last["id"]


def test_a_webhook_that_refuses_is_not_asked_for_ever(collector: Collector) -> None:
    collector.statuses = [400, 301]
    dropped: list[None] = []
    webhook = Webhook(collector.url, dropped=lambda: dropped.append(None))
    webhook(_stored(event(1), event(2), event(3)))
    collector.until(lambda: len(collector.taken) == 3)
    webhook.close(10)
    assert len(dropped) == 2


def test_a_webhook_that_is_down_takes_bounded_memory() -> None:
    dropped: list[None] = []
    webhook = Webhook("http://127.0.0.1:9/", limit=10, dropped=lambda: dropped.append(None))
    for number in range(1, 101):
        webhook(_stored(event(number)))
    assert len(dropped) == 90
    began = time.monotonic()
    webhook.close(0.2)
    assert time.monotonic() - began < 10


def test_a_time_far_away_is_a_time(collector: Collector) -> None:
    assert str(cloud_event(event(1, time=2.0**52))["time"]).startswith("9999-12-31")


def _stored(*told: Event) -> Stored:
    return Stored("plan-1", 1, told, 0, 0.0)
