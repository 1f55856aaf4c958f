"""Simulated agents, a few hundred in a process: `python -m tests.load.agents ORDER`.

Each replays the recorded events of a real installation at its own moments, over a connection of its
own, with the agent's own POST client and its rules: what matters is sent at once, progress waits
half a second for more, what cannot be delivered is kept and tried again with growing pauses.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import requests

from agent.report.event import Event
from agent.report.http import LINGER
from agent.report.post import Post, RefusedError, UnavailableError
from agent.secret import Secret

LONGEST_PAUSE = 5.0
"""Between two attempts: the agent's own 30 s would only make the run longer."""


@dataclass(frozen=True)
class Order:
    """What a process of agents shall do. Times are in seconds, `begin` in Unix seconds."""

    url: str
    first: int
    count: int
    recorded: str
    begin: float
    ramp: float
    speed: float


@dataclass
class Told:
    """What came of it."""

    milliseconds: list[float] = field(default_factory=list)
    attempts_failed: int = 0
    refused: int = 0
    events: int = 0
    batches: int = 0


def token_of(number: int) -> str:
    return f"token-of-machine-{number}"


def plan_of(number: int) -> str:
    return f"load-{number:04d}"


def recorded(path: Path) -> list[Event]:
    """Return the events of the longest run in a file, their times counted from its first."""
    events = [Event.from_json(line) for line in path.read_bytes().splitlines()]
    runs = {event.run: [e for e in events if e.run == event.run] for event in events}
    run = max(runs.values(), key=len)
    return [replace(event, time=event.time - run[0].time) for event in run]


class Agent:
    """One machine, in a thread of its own."""

    def __init__(self, order: Order, number: int, events: list[Event], told: Told) -> None:
        self._order = order
        self._name = plan_of(number)
        self._machine = f"BP{number:04d}"
        self._events = events
        self._told = told
        token = Secret(token_of(number))
        self._post = Post(f"{order.url}/v1/events", token=token, ca=None)
        self._begin = order.begin + order.ramp * random.random()

    def run(self) -> None:
        with self._post.session() as session:
            self._fetch(session)
            due = [self._begin + event.time / self._order.speed for event in self._events]
            at = 0
            while at < len(due):
                time.sleep(max(0.0, due[at] - time.time()))
                if self._events[at].is_progress:
                    time.sleep(LINGER)
                now = time.time()
                end = at + 1
                while end < len(due) and due[end] <= now:
                    end += 1
                self._deliver(session, self._events[at:end])
                at = end

    def _fetch(self, session: requests.Session) -> None:
        """Ask for the plan as a machine does; the server may not be there at the moment."""
        time.sleep(max(0.0, self._begin - time.time()))
        while True:
            try:
                place = f"{self._order.url}/v1/plan?serial={self._machine}"
                if session.get(place, timeout=30).status_code == 200:
                    return
            except requests.RequestException:
                self._told.attempts_failed += 1
            time.sleep(1)

    def _deliver(self, session: requests.Session, events: list[Event]) -> None:
        now = time.time()
        batch = [
            replace(event, plan=self._name, machine=self._machine, time=round(now, 3))
            for event in events
        ]
        body = b"".join(event.line for event in batch)
        pause = 0.25
        while True:
            began = time.monotonic()
            try:
                self._post.send(session, body)
            except UnavailableError as error:
                self._told.attempts_failed += 1
                time.sleep(max(error.retry_after, pause) + random.random())
                pause = min(2 * pause, LONGEST_PAUSE)
            except RefusedError:
                self._told.refused += 1
                return
            else:
                self._told.milliseconds.append((time.monotonic() - began) * 1000)
                self._told.events += len(batch)
                self._told.batches += 1
                return


def main() -> None:
    """Run the agents of one order and print what came of it as JSON."""
    order = Order(**json.loads(sys.argv[1]))
    threading.stack_size(512 * 1024)
    events, told = recorded(Path(order.recorded)), Told()
    agents = [
        Agent(order, number, events, told)
        for number in range(order.first, order.first + order.count)
    ]
    threads = [threading.Thread(target=agent.run) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps(asdict(told)))


if __name__ == "__main__":
    main()
