"""`python -m tests.load`: run it, judge it, write build/load.json."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import requests

from tests.load.agents import Order, plan_of, recorded, token_of
from tests.load.server import Server

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDED = REPOSITORY / "tests/page/recorded.jsonl"
LEAD = 8.0
"""Seconds until every process of agents has started."""
LOOK_SECONDS = 5.0


@click.command()
@click.option("--agents", default=1000, show_default=True)
@click.option("--processes", default=4, show_default=True)
@click.option("--speed", default=1.0, show_default=True, help="How much faster than recorded.")
@click.option("--ramp", default=15.0, show_default=True, help="Seconds in which all begin.")
@click.option("--output", type=click.Path(path_type=Path), default=REPOSITORY / "build/load.json")
def main(agents: int, processes: int, speed: float, ramp: float, output: Path) -> None:
    """Install AGENTS simulated machines at once; the server is killed in the middle."""
    events = recorded(RECORDED)
    with tempfile.TemporaryDirectory(prefix="bedplate-load-") as scratch:
        directory = Path(scratch) / "site"
        _publish(directory, agents)
        server = Server(directory)
        server.start()
        began = time.time()
        busy = os.getloadavg()[0]
        share = agents // processes
        orders = [
            Order(server.url, n * share, share, str(RECORDED), began + LEAD, ramp, speed)
            for n in range(processes)
        ]
        running = [_agents(order) for order in orders]
        looks = _Looks(server.url)
        time.sleep(LEAD + ramp + events[-1].time / speed / 2)
        server.kill()
        restart = server.start()
        outputs = [process.communicate()[0] for process in running]
        seconds = time.time() - began - LEAD
        looks.close()
        server.stop()
        found = _judge(directory, share * processes, [event.seq for event in events])
    told = [json.loads(each) for each in outputs]
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": busy},
        "agents": share * processes,
        "seconds": round(seconds, 1),
        **_latencies([each for one in told for each in one["milliseconds"]], seconds),
        "attempts_failed": sum(one["attempts_failed"] for one in told),
        "refused": sum(one["refused"] for one in told),
        **found,
        "server": {
            "peak_mib": round(server.peak_mib, 1),
            "cpu_seconds": round(server.cpu_seconds, 1),
            "restart_seconds": round(restart, 2),
        },
        "page": looks.summary(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps(result, indent=2))
    if found["lost"] or found["doubled"] or result["refused"]:
        raise SystemExit("events were lost, doubled or refused")


def _publish(directory: Path, count: int) -> None:
    (directory / "plans").mkdir(parents=True)
    for number in range(count):
        (directory / "plans" / f"{plan_of(number)}.yaml").write_text(
            f"version: 1\nid: {plan_of(number)}\nhostname: db{number:04d}.example.com\n"
            f"machine: {{serial: BP{number:04d}}}\n"
            f"report: [{{type: http, url: 'http://x/v1/events', token: {token_of(number)}}}]\n"
        )


def _agents(order: Order) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.load.agents", json.dumps(asdict(order))]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=REPOSITORY)


class _Looks:
    """An operator who looks at the fleet every few seconds, and one who keeps the page open."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ending = threading.Event()
        self._seconds: list[float] = []
        self._bytes = 0
        self._frames = 0
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._look, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._ending.set()
        self._threads[0].join(60)

    def summary(self) -> dict[str, Any]:
        return {
            "looks": len(self._seconds),
            "median_seconds": round(median(self._seconds), 2),
            "slowest_seconds": round(max(self._seconds), 2),
            "bytes": self._bytes,
            "frames_to_a_viewer": self._frames,
        }

    def _look(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            began = time.monotonic()
            try:
                answer = requests.get(f"{self._url}/v1/fleet", timeout=60)
            except requests.RequestException:
                continue  # it is being restarted
            self._seconds.append(time.monotonic() - began)
            self._bytes = len(answer.content)

    def _watch(self) -> None:
        while not self._ending.is_set():
            try:
                with requests.get(
                    f"{self._url}/v1/fleet/stream", stream=True, timeout=60
                ) as stream:
                    for line in stream.iter_lines():
                        self._frames += line.startswith(b"data:")
                        if self._ending.is_set():
                            return
            except requests.RequestException:
                self._ending.wait(1)


def _judge(directory: Path, agents: int, wanted: list[int]) -> dict[str, int]:
    """Count what is in the database against what was told."""
    query = "SELECT log.plan, event.seq FROM event JOIN log ON log.id = event.log"
    stored: dict[str, list[int]] = {}
    with closing(sqlite3.connect(directory / "bedplate.sqlite")) as database:
        for plan, seq in database.execute(query):
            stored.setdefault(plan, []).append(seq)
    plans = [stored.get(plan_of(number), []) for number in range(agents)]
    return {
        "events": sum(map(len, plans)),
        "lost": sum(len(set(wanted) - set(seqs)) for seqs in plans),
        "doubled": sum(len(seqs) - len(set(seqs)) for seqs in plans),
    }


def _latencies(milliseconds: list[float], seconds: float) -> dict[str, float | int]:
    parts = quantiles(milliseconds, n=100)
    return {
        "posts": len(milliseconds),
        "posts_per_second": round(len(milliseconds) / seconds),
        "p50_ms": round(parts[49], 1),
        "p99_ms": round(parts[98], 1),
        "slowest_ms": round(max(milliseconds), 1),
    }


if __name__ == "__main__":
    main()
