"""Installations as traces: each run a trace, each step a span, sent to an OTLP/HTTP collector.

A span is made when its step ends, from that one event: it says how long the step took. The ids are
hashes of plan, machine and run. So nothing has to be remembered between two events, a restarted
server goes on in the same trace, and so does another server behind the same load balancer.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from agent import __version__
from agent.report.event import RUN_STEP, Event, State
from agent.report.text import plain
from agent.server.batches import Stored

log = logging.getLogger(__name__)

QUEUE_SPANS = 20_000
"""Spans that wait for a collector that is down; the newest are dropped when there are more."""
EXPORT_SECONDS = 10.0
CLOSE_SECONDS = 2.0
"""That a collector has for the last spans when the server ends."""
OWN_RUN = "seal"
"""The first boot's only step: it comes in a run of its own, without an event of the run."""


class Traces:
    """Observes stored events. `close` sends what waits, for a few seconds at most."""

    def __init__(self, endpoint: str, headers: Mapping[str, str] | None = None) -> None:
        self._ids = _GivenIds()
        self._lock = threading.Lock()
        resource = Resource.create({"service.name": "bedplate", "service.version": __version__})
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(
            endpoint=endpoint, headers=dict(headers or {}), timeout=EXPORT_SECONDS
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS, schedule_delay_millis=1000)
        )
        self._tracer = self._provider.get_tracer("bedplate", __version__)

    def __call__(self, stored: Stored) -> None:
        for event in stored.fresh:
            if event.state in (State.FINISHED, State.FAILED):
                self._span(event)

    def close(self) -> None:
        # Its own timeout is a limit for each attempt, and a collector that is down has several.
        ending = threading.Thread(target=self._provider.shutdown, name="traces end", daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)

    def _span(self, event: Event) -> None:
        run = f"{event.plan}\n{event.machine}\n{event.run}"
        trace, root = _hashed(f"trace\n{run}", 16), _hashed(f"root\n{run}", 8)
        is_root = event.step in (RUN_STEP, OWN_RUN)
        end = event.time
        took = event.evidence.get("seconds")
        seconds = float(took) if isinstance(took, int | float) and 0 <= took <= end else 0.0
        with self._lock:
            self._ids.trace = trace
            self._ids.span = root if is_root else _hashed(f"{event.step}\n{event.seq}\n{run}", 8)
            span = self._tracer.start_span(
                plain(event.step, limit=200),
                context=Context() if is_root else _below(trace, root),
                kind=SpanKind.SERVER if is_root else SpanKind.INTERNAL,
                attributes=_attributes(event),
                start_time=_nanoseconds(end - seconds),
            )
        if event.state is State.FAILED:
            span.set_status(Status(StatusCode.ERROR, plain(event.message, limit=1000)))
        else:
            span.set_status(Status(StatusCode.OK))
        span.end(_nanoseconds(end))


class _GivenIds(IdGenerator):
    """Gives out the ids that were put in; used under the lock of `Traces`."""

    trace = 0
    span = 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span


def _below(trace: int, root: int) -> Context:
    """Return a context below the run's own span, which is sent when the run is over."""
    parent = SpanContext(trace, root, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _attributes(event: Event) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "bedplate.plan": event.plan,
        "bedplate.machine": event.machine,
        "bedplate.run": event.run,
        "bedplate.step": event.step,
        "bedplate.seq": event.seq,
    }
    if event.done is not None:
        found |= {"bedplate.done": event.done, "bedplate.unit": event.unit}
    if event.rate is not None:
        found["bedplate.rate"] = event.rate
    return found


def _hashed(text: str, size: int) -> int:
    """Return an id of `size` bytes; never 0, which is no id (W3C Trace Context §3.2.2)."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:size], "big") or 1


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1000) * 1_000_000
