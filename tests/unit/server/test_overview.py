from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report.checklist import Checklist
from agent.report.event import Event, State
from agent.server.detail import detail
from agent.server.eventlog import EventLog
from agent.server.overview import STATES, Durations, Entry, entry, totals
from agent.server.page import render
from tests.page.fleet import LONG, failed, told, until
from tests.unit.report.receivers import event

NOW = 1_700_001_000.0


@dataclass
class Told:
    """A log of some events, last heard at `heard`."""

    events: list[Event]
    heard: float = NOW
    installed: bool = False
    checklist: Checklist = field(default_factory=Checklist)

    def __post_init__(self) -> None:
        for each in self.events:
            self.checklist.update(each)
            self.installed = each.state is State.FINISHED if each.is_last else self.installed


def shown(*events: Event, now: float = NOW, heard: float = NOW, **more: Any) -> Entry:
    durations = more.get("durations", Durations())
    return entry("plan-1", "db01.example.com", Told(list(events), heard), durations, now)


RUN = told("plan-1", "CZ1", NOW - 1000)


def test_a_plan_without_events_waits() -> None:
    waiting = entry("plan-1", "db01", None, Durations(), NOW)
    assert (waiting.name, waiting.state, waiting.heard) == ("db01", "waiting", None)


def test_a_recorded_installation_proves_mirror_unlock_and_seal_one_after_the_other() -> None:
    proven: list[tuple[str, str, str]] = []
    for count in range(1, len(RUN) + 1):
        one = shown(*RUN[:count])
        if not proven or proven[-1] != (one.mirror, one.unlock, one.seal):
            proven.append((one.mirror, one.unlock, one.seal))
    assert proven == [
        ("", "", ""),
        ("made", "", ""),
        ("whole", "", ""),
        ("whole", "bound", "provisional"),
        ("whole", "proven", "provisional"),
        ("whole", "proven", "sealed"),
    ]


def test_an_installed_machine_says_how_long_it_took_and_when() -> None:
    one = shown(*RUN)
    assert (one.state, one.share, one.took) == ("installed", 1.0, 84.297)
    assert one.ended == pytest.approx(NOW - 1000 + LONG)
    assert one.began == pytest.approx(NOW - 1000 + LONG - 84.297)


def test_a_later_run_that_only_looks_leaves_what_was_proven() -> None:
    again = event(1, run="again", step="find")
    over = event(
        2, State.FINISHED, run="again", step="install", evidence={"report": {"state": "already"}}
    )
    one = shown(*RUN, again, over)
    assert (one.state, one.mirror, one.unlock, one.seal) == (
        "installed",
        "whole",
        "proven",
        "sealed",
    )


def test_a_later_run_that_writes_starts_from_nothing_proven() -> None:
    again = [event(1, run="again", step="find"), event(2, run="again", step="install")]
    one = shown(*RUN, *again)
    assert (one.state, one.mirror, one.unlock, one.seal) == ("running", "", "", "")


def test_a_mirror_with_a_lost_member_is_degraded() -> None:
    mirrors = [{"name": "root", "members": 2, "active": 1}]
    done = event(1, State.FINISHED, step="close-target", evidence={"mirrors": mirrors})
    assert shown(done).mirror == "degraded"


def test_a_failed_machine_says_why_in_one_line() -> None:
    begun = until(RUN, "write-image", State.PROGRESS)
    one = shown(*failed(begun, "chunk 7: sha256 differs\n\nno mirror is left", []))
    assert one.state == "failed"
    assert one.step.startswith("Write the image")
    assert one.message == "chunk 7: sha256 differs; no mirror is left"
    assert one.eta is None


@pytest.mark.parametrize(("age", "state"), [(59, "running"), (61, "silent")])
def test_a_running_machine_that_says_nothing_for_a_minute_is_silent(age: float, state: str) -> None:
    one = shown(*RUN[:20], heard=NOW - age)
    assert (one.state, one.heard) == (state, NOW - age)
    assert state == "running" or one.eta is None


def test_the_time_left_of_a_step_comes_from_its_rate() -> None:
    begun = event(1, message="Write the image")
    half = event(2, State.PROGRESS, done=2**30, total=3 * 2**30, unit="bytes", rate=2.0**20)
    one = shown(begun, half)
    assert (one.rate, one.eta_of) == (2.0**20, "step")
    assert one.eta == NOW + 2048


def test_the_time_left_of_a_run_is_what_the_others_took() -> None:
    durations = Durations()
    for slower in (1.0, 2.0, 3.0):
        done = Told(told("other", "CZ2", NOW, slower=slower))
        durations.learn(done.checklist.standing.seconds)
    steps = Told(RUN).checklist.standing.seconds
    begun = until(RUN, "make-volumes", State.STARTED)
    one = shown(*begun, durations=durations)
    names = list(steps)
    to_come = sum(steps[name] for name in names[names.index("make-volumes") :])
    assert one.eta_of == "run"
    assert one.eta == pytest.approx(NOW + 2 * to_come, abs=1)
    assert one.share is not None
    assert 0.1 < one.share < 0.5


def test_the_time_left_is_known_before_the_steps_are_announced() -> None:
    durations = Durations()
    durations.learn(Told(RUN).checklist.standing.seconds)
    one = shown(RUN[0], durations=durations)
    assert one.eta_of == "run"
    assert one.eta == pytest.approx(NOW + 80, abs=10)
    assert one.steps == 0


def test_a_machine_whose_clock_is_years_off_began_when_it_was_heard() -> None:
    begun = [each for each in told("plan-1", "CZ1", 86_400.0) if each.time < 86_400 + 50]
    one = shown(*begun)
    assert one.began == pytest.approx(NOW - (begun[-1].time - begun[0].time), abs=0.01)
    over = shown(*told("plan-1", "CZ1", 86_400.0))
    assert over.ended == NOW


def test_durations_are_medians_and_bounded() -> None:
    durations = Durations()
    for took in (1.0, 100.0, 3.0):
        durations.learn({"a": took})
    assert durations.typical("a") == 3.0
    assert durations.typical("b") is None
    for number in range(1000):
        durations.learn({f"step {number}": 1.0, "a": 7.0})
    assert len(durations._samples) == 200
    assert durations.typical("a") == 7.0


def test_the_totals_count_every_state() -> None:
    entries = [entry(str(n), "", None, Durations(), NOW) for n in range(3)] + [shown(*RUN)]
    assert totals(entries) == {
        "machines": 4,
        "failed": 0,
        "silent": 0,
        "running": 0,
        "waiting": 3,
        "installed": 1,
    }


_STEPS = st.sampled_from(
    ["find", "check", "install", "mirror-disks", "prove-target", "prove-unlock", "seal", "escrow"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_EVIDENCE = st.dictionaries(
    st.sampled_from(
        ["seconds", "steps", "mirrors", "state", "unlock", "report", "layout", "placed", "log"]
    )
    | st.text(max_size=5),
    _JSON,
    max_size=4,
)
_TIMES = st.floats(0, 2**40, allow_nan=False)


@st.composite
def _events(draw: st.DrawFn) -> Event:
    figures = draw(st.booleans())
    return Event(
        plan="plan-1",
        machine=draw(st.text("ab<&\u202e", max_size=4)),
        seq=draw(st.integers(1, 50)),
        time=draw(_TIMES),
        step=draw(_STEPS),
        state=draw(st.sampled_from(State)),
        run=draw(st.sampled_from(["a", "b", "first-boot"])),
        done=draw(st.integers(0, 2**50)) if figures else None,
        total=draw(st.none() | st.integers(0, 2**50)) if figures else None,
        unit=draw(st.sampled_from(["", "bytes", "<b>"])),
        rate=draw(st.none() | _TIMES),
        message=draw(st.text(max_size=20)),
        evidence=draw(_EVIDENCE),
    )


@settings(deadline=None, max_examples=60)  # the machine may be busy
@given(st.lists(_events(), min_size=1, max_size=12), _TIMES, _TIMES)
def test_no_order_of_events_breaks_a_row_or_the_detail(
    events: list[Event], heard: float, now: float
) -> None:
    durations = Durations()
    log = EventLog("plan-1").after(events, heard=heard, count=len(events))
    durations.learn(log.checklist.standing.seconds)
    one = entry("plan-1", "host", log, durations, now)
    assert one.state in STATES
    assert one.share is None or 0 <= one.share <= 1
    assert one.began is None or one.began <= max(heard, one.ended or 0)
    assert one.ended is None or one.ended <= heard
    assert "<b>" not in render([one], now).partition("<tbody")[2]
    found = detail([b"".join(each.line for each in events)])
    assert 1 <= len(found["runs"]) <= 3
    assert len(found["latest"]) <= len(events)


@settings(deadline=None, max_examples=10)
@given(st.permutations(RUN))
def test_a_recorded_run_in_any_order_still_ends_installed_or_running(events: list[Event]) -> None:
    assert shown(*events).state in ("installed", "running")


def test_the_detail_has_steps_evidence_layout_and_the_first_boot() -> None:
    found = detail([b"".join(each.line for each in RUN)])
    boot, run = found["runs"]
    assert [step["name"] for step in boot["steps"]] == ["seal"]
    by_name = {step["name"]: step for step in run["steps"]}
    assert len(by_name) == 22
    assert by_name["write-image"]["seconds"] == 9.32
    assert by_name["bind-unlock"]["evidence"]["policy"] == "tpm2 and tang"
    assert run["report"]["hostname"] == "db01.example.com"
    assert [disk["serial"] for disk in found["layout"]["disks"]] == ["BPVIRT0", "BPNVME1"]
    assert found["picture"][0].startswith("disk /dev/vda")


def test_the_layout_is_there_as_soon_as_it_is_decided() -> None:
    begun = until(RUN, "check", State.FINISHED)
    found = detail([b"".join(each.line for each in begun)])
    assert len(found["layout"]["volumes"]) == 7


def test_the_detail_of_a_failure_has_the_log_and_the_advice() -> None:
    begun = until(RUN, "write-image", State.PROGRESS)
    events = failed(begun, "no mirror is left", ["one", "two"])
    found = detail([each.line for each in events])
    assert found["log"] == ["one", "two"]
    assert found["runs"][0]["advice"][0] == "nothing was touched"
    assert found["runs"][0]["message"] == "no mirror is left"


def test_the_detail_is_bounded_whatever_comes() -> None:
    lines = [
        event(n, State.FINISHED, run=f"run {n % 50}", evidence={"blob": "x" * 60_000}).line
        for n in range(1, 200)
    ]
    found = detail([b"garbage\n{}\n", *lines])
    assert len(found["runs"]) == 5
    assert len(found["latest"]) == 60
    assert all(
        step["evidence"] == {"left_out": ["blob"]} for run in found["runs"] for step in run["steps"]
    )
