"""What Foreman is told of how a run ended."""

from __future__ import annotations

import json
from typing import Any
from unicodedata import category

from hypothesis import given
from hypothesis import strategies as st

from agent.foreman.config_report import Entry, config_report
from agent.foreman.story import LIMIT, reason, story
from agent.report.checklist import Checklist
from agent.report.event import MESSAGE_LIMIT, Event, State
from tests.adapters.foreman.standin import KEPT, LEVELS, STATUSES

TEXT = st.text(max_size=200)
HOSTILE = {"Cc", "Cs", "Zl", "Zp"}


def event(step: str = "install", state: State = State.FAILED, **more: Any) -> Event:
    return Event(
        plan="p", machine="m", run="r", seq=1, time=1795364282.5, step=step, state=state, **more
    )


def test_the_first_line_is_the_reason_and_says_that_there_is_more() -> None:
    assert reason(event(message="storage: no room")) == "bedplate: storage: no room"
    assert reason(event(message="a: 1\n\nb: 2\nc: 3")) == "bedplate: a: 1 (and 2 more)"
    assert reason(event()) == "bedplate: failed"


def test_the_end_of_the_log_is_kept_and_its_beginning_is_not() -> None:
    lines = [f"line {number} " + "y" * 60 for number in range(1400)]
    text = story(event(message="x", evidence={"log": lines}), Checklist()).decode()
    assert text.splitlines()[-1] == lines[-1]
    assert lines[0] not in text
    assert LIMIT - 200 < len(text.encode()) <= LIMIT


@given(
    st.text(max_size=MESSAGE_LIMIT),
    st.lists(TEXT, max_size=30).map(lambda lines: [line * 40 for line in lines]),
    st.lists(st.tuples(TEXT, st.sampled_from(State)), max_size=30),
    st.lists(TEXT, max_size=5),
)
def test_whatever_happened_it_fits_is_text_and_starts_with_one_line(
    message: str, log: list[str], steps: list[tuple[str, State]], advice: list[str]
) -> None:
    done = Checklist()
    for name, state in steps:
        clean = "".join(letter for letter in name if letter.isprintable())[:100]
        done.update(event(clean or "s", state, evidence={"seconds": 1.5}))
    told = story(event(message=message, evidence={"log": log, "advice": advice}), done)
    assert len(told) <= LIMIT < KEPT
    text = told.decode()
    assert text.splitlines()[0].startswith("bedplate: ")
    assert not {letter for letter in text if category(letter) in HOSTILE} - {"\n"}


@given(st.lists(st.tuples(st.sampled_from(State), TEXT, st.floats(0, 1e6)), max_size=250))
def test_a_config_report_has_only_what_foremans_importer_knows(
    steps: list[tuple[State, str, float]],
) -> None:
    entries = [
        entry
        for number, (state, words, seconds) in enumerate(steps)
        for entry in Entry.of(
            event(f"s{number}", state, message=words, evidence={"seconds": seconds})
        )
    ]
    for state in (State.FINISHED, State.FAILED):
        last = event(state=state, message="why", evidence={"seconds": 3})
        report = json.loads(config_report("db01.example.com", last, entries))["config_report"]
        assert set(report) == {"host", "reported_at", "status", "metrics", "logs"}
        assert set(report["status"]) == STATUSES
        assert bool(report["status"]["failed"]) is (state is State.FAILED)
        assert {line["log"]["level"] for line in report["logs"]} <= LEVELS
        assert report["reported_at"] == "2026-11-22 16:18:02+00:00"


def test_a_step_is_an_entry_when_it_ends_and_the_run_is_none() -> None:
    assert Entry.of(event("image", State.PROGRESS, done=1)) == []
    assert Entry.of(event("install", State.FINISHED)) == []
    (entry,) = Entry.of(
        event("image", State.FINISHED, done=3 << 30, unit="bytes", evidence={"seconds": 75})
    )
    assert (entry.step, entry.words) == ("image", "3.0 GiB (1 min 15 s)")
