from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import StepError
from agent.report.event import Event, State
from agent.report.reporter import Reporter
from agent.report.tail import LogTail
from agent.secret import Secret
from tests.unit.report.receivers import HandClock, reporter


@pytest.fixture
def tail() -> Iterator[tuple[logging.Logger, LogTail]]:
    log, kept = logging.getLogger("test.tail"), LogTail(lines=5)
    log.setLevel(logging.DEBUG)
    log.addHandler(kept)
    yield log, kept
    log.removeHandler(kept)


def test_a_step_is_told_from_its_start_to_its_end_with_its_duration() -> None:
    heard, hands = list[Event](), HandClock()
    with reporter(heard, hands=hands).step("encrypt", "Encrypt /dev/md1") as step:
        hands.pass_(2.5)
        step.evidence = {"keyslot": 0}
    assert [(e.seq, e.step, e.state, e.message) for e in heard] == [
        (1, "encrypt", State.STARTED, "Encrypt /dev/md1"),
        (2, "encrypt", State.FINISHED, ""),
    ]
    assert heard[1].evidence == {"seconds": 2.5, "keyslot": 0}
    assert {(e.plan, e.machine, e.run) for e in heard} == {("plan-1", "52:54:00:12:34:56", "run-1")}


def test_a_failure_carries_its_reason_and_the_end_of_the_log(
    tail: tuple[logging.Logger, LogTail],
) -> None:
    log, kept = tail
    heard = list[Event]()
    told = Reporter("p", "m", [heard.append], tail=kept)
    for number in range(9):
        log.info("line %d", number)
    with pytest.raises(StepError), told.step("encrypt"):
        raise StepError("cryptsetup: exited with status 5")
    assert heard[-1].state is State.FAILED
    assert heard[-1].message == "cryptsetup: exited with status 5"
    lines = heard[-1].evidence["log"]
    assert isinstance(lines, list)
    assert [str(line).rsplit(": ", 1)[1] for line in lines] == [f"line {n}" for n in range(4, 9)]
    assert "traceback" not in heard[-1].evidence


def test_a_bug_is_reported_with_its_traceback_and_goes_on() -> None:
    heard = list[Event]()
    with pytest.raises(KeyError), reporter(heard).step("resolve"):
        raise KeyError("disk")
    assert heard[-1].message == "KeyError: 'disk'"
    assert "test_reporter" in str(heard[-1].evidence["traceback"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_step_is_a_failed_one(error: type[BaseException]) -> None:
    heard = list[Event]()
    with pytest.raises(error), reporter(heard).step("image"):
        raise error
    assert (heard[-1].state, heard[-1].message) == (State.FAILED, "interrupted")


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=200))
def test_no_second_sees_more_than_five_progress_events(
    calls: list[tuple[float, bool]],
) -> None:
    """Whatever the pace of the calls and however many steps they are spread over."""
    heard, hands = list[Event](), HandClock()
    told = reporter(heard, hands=hands)
    with contextlib.ExitStack() as steps:
        step = steps.enter_context(told.step("image"))
        for pause, another in calls:
            hands.pass_(pause)
            if another:
                step = steps.enter_context(told.step("image"))
            step.progress(1, 2, "bytes")
    times = [e.time for e in heard if e.state is State.PROGRESS]
    assert all(b - a > 0.999 for a, b in zip(times, times[5:], strict=False))


def test_a_step_that_never_stops_telling_is_heard_five_times_a_second() -> None:
    heard, hands = list[Event](), HandClock()
    with reporter(heard, hands=hands).step("image") as step:
        for done in range(1000):
            hands.pass_(0.01)
            step.progress(done, 1000)
    assert 48 <= len([e for e in heard if e.state is State.PROGRESS]) <= 50


def test_the_last_figures_of_a_step_always_go_out() -> None:
    heard, hands = list[Event](), HandClock()
    with reporter(heard, hands=hands).step("image", unit="bytes") as step:
        for done in range(1001):
            hands.pass_(0.001)
            step.progress(done, 1000)
    assert (heard[-1].done, heard[-1].total, heard[-1].unit) == (1000, 1000, "bytes")
    assert heard[-1].rate == pytest.approx(1000, rel=0.01)


def test_the_rate_follows_the_last_seconds_and_not_the_start() -> None:
    heard, hands = list[Event](), HandClock()
    with reporter(heard, hands=hands).step("image", unit="bytes") as step:
        done = 0
        for _ in range(100):
            hands.pass_(1)
            done += 1000
            step.progress(done, 10**6)
        for _ in range(10):
            hands.pass_(1)
            done += 10
            step.progress(done, 10**6)
    assert heard[-2].rate == pytest.approx(10)
    assert heard[-1].rate == pytest.approx(done / 110, rel=0.01)


def test_a_step_that_starts_over_never_shows_a_negative_rate() -> None:
    heard, hands = list[Event](), HandClock()
    with reporter(heard, hands=hands).step("image") as step:
        for done in (*range(0, 10_000, 1000), 0, 100, 200):
            hands.pass_(1)
            step.progress(done, 10_000, "bytes")
    assert all(e.rate is None or e.rate >= 0 for e in heard)
    assert heard[-2].rate == 100


def test_progress_without_a_step_is_told_to_nobody() -> None:
    heard = list[Event]()
    reporter(heard).progress(1, 2, "bytes")
    assert heard == []


def test_progress_goes_to_the_innermost_step() -> None:
    heard, hands = list[Event](), HandClock()
    told = reporter(heard, hands=hands)
    with told.step("outer"), told.step("inner"):
        hands.pass_(1)
        told.progress(1, 2, "volumes")
    assert [e.step for e in heard if e.state is State.PROGRESS] == ["inner"]


@pytest.mark.parametrize("numbers", [(-5, 10), (2**60, 2**60), (0, 0)])
def test_figures_out_of_range_do_not_reach_the_install(numbers: tuple[int, int]) -> None:
    heard, hands = list[Event](), HandClock()
    with reporter(heard, hands=hands).step("image") as step:
        hands.pass_(1)
        step.progress(*numbers, "a unit that is far too long")
    assert [e.state for e in heard] == [State.STARTED, State.PROGRESS, State.FINISHED]


def test_a_sink_that_fails_neither_stops_the_install_nor_the_other_sinks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(event: Event) -> None:
        raise OSError("the console is gone")

    heard = list[Event]()
    told = Reporter("p", "m", [broken, heard.append])
    with told.step("one"):
        pass
    with told.step("two"):
        pass
    assert [e.seq for e in heard] == [1, 2, 3, 4]
    assert caplog.text.count("a report sink fails") == 1


def test_a_sink_that_cannot_be_closed_does_not_keep_the_others_open() -> None:
    class Stuck:
        def __call__(self, event: Event) -> None: ...
        def close(self, timeout: float) -> None:
            raise OSError("busy")

    class Closed(Stuck):
        given: float | None = None

        def close(self, timeout: float) -> None:
            self.given = timeout

    closed = Closed()
    Reporter("p", "m", [Stuck(), closed]).close(3)
    assert closed.given is not None
    assert 2 < closed.given <= 3


def test_a_secret_in_evidence_fails_the_step_that_shows_it() -> None:
    heard = list[Event]()
    with pytest.raises(TypeError), reporter(heard).step("encrypt") as step:
        step.evidence = {"key": (key := Secret.random())}
    assert heard[-1].state is State.FAILED
    assert key.value not in b"".join(e.line for e in heard)


def test_a_sink_attached_later_hears_what_it_missed_under_the_plan_known_by_then() -> None:
    early, late, hands = list[Event](), list[Event](), HandClock()
    told = Reporter("", "", [early.append], clock=hands.clock())
    with told.step("find") as step:
        hands.pass_(1)
        step.progress(1, 2)
    told.identify(plan="plan-1", machine="db01")
    told.attach(late.append)
    with told.step("check"):
        pass
    assert [e.plan for e in early] == ["", "", "", "plan-1", "plan-1"]
    assert [(e.plan, e.machine, e.seq, e.step) for e in late] == [
        ("plan-1", "db01", 1, "find"),
        ("plan-1", "db01", 3, "find"),
        ("plan-1", "db01", 4, "check"),
        ("plan-1", "db01", 5, "check"),
    ]


@pytest.mark.parametrize("plan", ["../x", "a b", "-x" * 70])
def test_a_plan_id_that_could_name_another_file_is_refused_at_once(plan: str) -> None:
    with pytest.raises(ValueError, match="plan id"):
        Reporter(plan, "m")


def test_two_runs_of_one_plan_can_be_told_apart() -> None:
    assert Reporter("p", "m").run != Reporter("p", "m").run


def test_the_steps_to_come_are_announced() -> None:
    heard = list[Event]()
    reporter(heard).announce([("a", "Do A"), ("b", "Do B")], "Install")
    assert (heard[0].step, heard[0].state, heard[0].total) == ("install", State.STARTED, 2)
    assert heard[0].evidence["steps"] == [
        {"name": "a", "title": "Do A"},
        {"name": "b", "title": "Do B"},
    ]


def test_the_last_event_carries_the_report_and_nothing_comes_after_it() -> None:
    heard = list[Event]()
    told = reporter(heard)
    told.final({"disks": [{"serial": "CZ1"}]})
    with told.step("late"):
        pass
    assert len(heard) == 1
    assert heard[0].is_last
    assert heard[0].evidence["report"] == {"disks": [{"serial": "CZ1"}]}


def test_a_failed_run_ends_with_reason_log_and_advice(
    tail: tuple[logging.Logger, LogTail],
) -> None:
    log, kept = tail
    heard = list[Event]()
    told = Reporter("p", "m", [heard.append], tail=kept)
    log.error("mdadm: no such device")
    told.final({}, error="mirror: no such device", advice=["look at the cable"])
    assert heard[0].state is State.FAILED
    assert heard[0].message == "mirror: no such device"
    assert "mdadm: no such device" in str(heard[0].evidence["log"])
    assert heard[0].evidence["advice"] == ["look at the cable"]


def test_a_report_that_is_far_too_long_still_goes_out() -> None:
    heard = list[Event]()
    reporter(heard).final({"disks": ["CZ1"], "log": '\x00\\"é' * 200_000}, error="\x00" * 10_000)
    report = heard[0].evidence["report"]
    assert report == {"disks": ["CZ1"], "left_out": ["log"]}
    assert len(heard[0].message) == 4096


class Keeper:
    """A sink that keeps envelopes, or does not."""

    def __init__(self, name: str, refuse: str = "") -> None:
        self.name = name
        self.refuse = refuse
        self.heard: list[Event] = []

    def __call__(self, event: Event) -> None: ...

    def deliver(self, event: Event, timeout: float) -> str:
        if self.refuse:
            raise StepError(f"escrow: {self.name}: {self.refuse}")
        self.heard.append(event)
        return str(event.evidence["sha256"])


ENVELOPE = b"\x30\x03\x02\x01\x05"


def test_an_envelope_is_delivered_when_one_sink_acknowledges_it() -> None:
    down, up, lines = Keeper("down", "not reachable"), Keeper("up"), list[Event]()
    told = Reporter("p", "m", [down, lines.append, up])
    assert told.deliver(ENVELOPE, {"luks": "u"}) == hashlib.sha256(ENVELOPE).hexdigest()
    assert up.heard == lines


def test_an_envelope_that_nobody_acknowledged_stops_the_install_with_every_reason() -> None:
    told = Reporter("p", "m", [Keeper("a", "not reachable"), Keeper("b", "answers 403")])
    with pytest.raises(StepError, match=r"a: not reachable; .*b: answers 403"):
        told.deliver(ENVELOPE, {})


def test_an_envelope_needs_a_sink_that_keeps_it() -> None:
    with pytest.raises(StepError, match="no report sink keeps envelopes"):
        reporter(list[Event]()).deliver(ENVELOPE, {})
