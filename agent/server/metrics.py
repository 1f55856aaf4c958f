"""`/metrics`, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.report.event import State
from agent.server.batches import Stored

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counts what is stored and answered. `machines` and `escrowed` are asked at each scrape."""

    def __init__(
        self, machines: Callable[[], Mapping[str, int]], escrowed: Callable[[], int]
    ) -> None:
        self._registry = CollectorRegistry()
        self._events = self._counter("events", "Events stored, each once")
        self._bytes = self._counter("event_bytes", "Bytes of events stored")
        self._written = self._counter("written_bytes", "Bytes that finished steps have written")
        self._dropped = self._counter("webhook_dropped", "Events that the webhook never got")
        self._refused = Counter(
            "bedplate_refused", "Requests refused", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            "bedplate_post_seconds",
            "Seconds from the head of a POST of events to its answer",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Fleet(machines, escrowed))

    def __call__(self, stored: Stored) -> None:
        self._events.inc(len(stored.fresh))
        self._bytes.inc(sum(len(event.line) for event in stored.fresh))
        for event in stored.fresh:
            if event.state is State.FINISHED and event.unit == "bytes" and event.done:
                self._written.inc(event.done)

    def posted(self, seconds: float) -> None:
        """Count an answered POST of events."""
        self._seconds.observe(seconds)

    def refused(self, status: int) -> None:
        """Count a request that was refused."""
        self._refused.labels(str(status)).inc()

    def dropped(self) -> None:
        """Count an event that the webhook did not get."""
        self._dropped.inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format. Blocks."""
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"bedplate_{name}", meaning, registry=self._registry)


class _Fleet(Collector):
    """What is true now, and would be wrong if several servers added it up: use max, not sum."""

    def __init__(
        self, machines: Callable[[], Mapping[str, int]], escrowed: Callable[[], int]
    ) -> None:
        self._machines = machines
        self._escrowed = escrowed

    def collect(self) -> Iterator[GaugeMetricFamily]:
        machines = GaugeMetricFamily("bedplate_machines", "Machines by state", labels=["state"])
        for state, count in self._machines().items():
            machines.add_metric([state], count)
        yield machines
        yield GaugeMetricFamily(
            "bedplate_escrow_envelopes", "Recovery keys in escrow", self._escrowed()
        )

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name nothing: the registry would else count the fleet once more at the start."""
        return iter(())
