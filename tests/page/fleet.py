"""A fleet for the page to show: one recorded installation, told again by as many as wanted.

`recorded.jsonl` is what a machine of the rig sent, its first boot included; times from its start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.report.event import Event, State
from agent.server.changes import Changes
from agent.server.eventlog import EventLog
from agent.server.events import Row
from agent.server.plans import Identity, PlanFile

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "recorded.jsonl").read_text("utf-8").splitlines()
]
LONG = float(RECORDED[-2]["time"])
"""Seconds of the recorded installation."""


def told(plan: str, machine: str, began: float, *, slower: float = 1.0) -> list[Event]:
    """Return the recorded events as another machine would send them, `slower` times as long."""
    return [_again(each, plan, machine, began, slower) for each in RECORDED]


def _again(document: dict[str, Any], plan: str, machine: str, began: float, slower: float) -> Event:
    evidence = dict(document.get("evidence", {}))
    if "seconds" in evidence:
        evidence["seconds"] = round(evidence["seconds"] * slower, 3)
    changed = {
        **{key: value for key, value in document.items() if key != "version"},
        "plan": plan,
        "machine": machine,
        "run": "first-boot" if document["step"] == "seal" else f"run-{plan}",
        "time": round(began + document["time"] * slower, 3),
        "state": State(document["state"]),
        "evidence": evidence,
    }
    if "rate" in changed:
        changed["rate"] = round(changed["rate"] / slower, 3)
    return Event(**changed)


def until(events: Sequence[Event], step: str, state: State) -> list[Event]:
    """Return the events up to and with the first of this step and state."""
    for number, event in enumerate(events, start=1):
        if event.step == step and event.state is state:
            return list(events[:number])
    raise KeyError(step)


def failed(events: Sequence[Event], message: str, log: Sequence[str]) -> list[Event]:
    """Return the events with the step that runs at their end failed, and the run with it."""
    last = events[-1]

    def after(number: int, step: str, evidence: dict[str, Any]) -> Event:
        return Event(
            plan=last.plan,
            machine=last.machine,
            run=last.run,
            seq=last.seq + number,
            time=last.time + number,
            step=step,
            state=State.FAILED,
            message=message,
            evidence={"seconds": 12.4, "log": list(log), **evidence},
        )

    advice = ["nothing was touched", "mend what is named above and start again"]
    return [*events, after(1, last.step, {}), after(2, "install", {"advice": advice})]


class Memory:
    """A store in memory, with a clock that is wound by hand."""

    def __init__(self, now: float = 1_795_388_000.0) -> None:
        self.now = now
        self.changes = Changes()
        self._names: dict[str, str] = {}
        self._logs: dict[str, EventLog] = {}
        self._lines: dict[str, list[bytes]] = {}

    def clock(self) -> float:
        return self.now

    def plan(self, plan: str, hostname: str = "") -> None:
        """Add a plan; no event of it has come."""
        self._names[plan] = hostname
        self.changes.bump(plan)

    def forget(self, plan: str) -> None:
        self._names.pop(plan, None)
        self._logs.pop(plan, None)
        self.changes.bump(plan)

    def tell(self, events: Iterable[Event], heard: float | None = None) -> None:
        """Take events, all of one plan."""
        events = list(events)
        plan = events[0].plan
        log = self._logs.get(plan) or EventLog(plan)
        lines = self._lines.setdefault(plan, [])
        lines += [event.line for event in events]
        moment = self.now if heard is None else heard
        self._logs[plan] = log.after(events, heard=moment, count=len(lines))
        self.changes.bump(plan)

    def rows(self) -> Iterator[Row]:
        for plan in dict.fromkeys([*self._names, *self._logs]):
            name = self._names.get(plan)
            file = None if name is None else _file(plan, name)
            yield Row(plan, file, self._logs.get(plan))

    def log_of(self, plan: str) -> EventLog | None:
        return self._logs.get(plan)

    def lines(self, plan: str) -> Iterable[bytes] | None:
        return self._lines.get(plan)


def _file(plan: str, hostname: str) -> PlanFile:
    nobody = Identity.of([], "", "")
    return PlanFile(plan, Path(f"{plan}.yaml"), b"", hostname, nobody, ())


def roll_out(memory: Memory, machines: int = 170) -> None:
    """Fill `memory` with a roll-out in the middle: some of every state."""
    rack, now = 20, memory.now
    for number in range(machines):
        plan, machine = f"{number:08x}-52f1-4c0e-9d55-a7b1c0de0001", f"CZ{240100 + number}"
        kind = ("db", "app", "web", "k8s")[number % 4]
        memory.plan(plan, f"{kind}{number // 4 + 1:02d}.r{number // rack + 1}.example.com")
        slower = 4.0 + (number * 7919 % 13) / 6
        wave = number // rack * 210.0
        began = now - 1500 + wave + number % rack * 3.1
        events = told(plan, machine, began, slower=slower)
        if number in (37, 61):
            _fail(memory, events, number)
        elif number == 88:
            stopped = [event for event in events if event.time <= now - 310]
            memory.tell(stopped, heard=stopped[-1].time)
        else:
            # The first boot reports a few minutes after the end.
            come = [event for event in events if event.time <= now]
            if come:
                memory.tell(come, heard=min(come[-1].time, now - number % 4 * 0.7))


def _fail(memory: Memory, events: list[Event], number: int) -> None:
    if number == 37:
        why = (
            "encryption.tang[0]: http://10.0.4.7:7500 does not answer: connection refused\n"
            "disks: /dev/nvme1n1 (serial S5GXNX0R) holds a foreign RAID member; "
            "disks.erase is refuse-foreign"
        )
        begun = until(events, "check", State.STARTED)
    else:
        why = "chunk 211: sha256 differs on every mirror; 2 of 2 were asked"
        begun = until(events, "write-image", State.PROGRESS)
    log = [f"12:0{n % 10}:{n:02d} INFO agent.payload.fetch: GET chunk {n}: 206" for n in range(30)]
    all_of_it = failed(begun, why, [*log, f"12:09:59 ERROR agent.session: {why.splitlines()[0]}"])
    memory.tell(all_of_it, heard=all_of_it[-1].time)
