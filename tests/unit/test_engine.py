"""The engine: every check, then every step, and what happens when one of them does not work."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.engine import carry_out, examine, let_go
from agent.errors import CommandError, Problem, StepError
from agent.layout.model import Array, Role
from agent.machine import Machine, Progress
from agent.report.event import Event
from tests.unit.fakes import FakeHost
from tests.unit.fakes_storage import FakeKernel
from tests.unit.target.sample import layout


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@dataclass(frozen=True)
class Found:
    """A check that finds these problems, and then perhaps cannot go on."""

    messages: tuple[str, ...] = ()
    breaks: Exception | None = None

    def describe(self) -> str:
        return "the well has water"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        yield from (Problem("well", message) for message in self.messages)
        if self.breaks is not None:
            raise self.breaks


@dataclass(frozen=True)
class Note:
    """A step that writes its name down, and then perhaps fails."""

    name: str
    book: list[str] = field(default_factory=list)
    breaks: BaseException | None = None
    unit: str = "pages"

    def describe(self) -> str:
        return f"Write {self.name} down"

    def apply(self, machine: Machine, progress: Progress) -> Mapping[str, Any]:
        self.book.append(self.name)
        progress(1, 2)
        if self.breaks is not None:
            raise self.breaks
        return {"page": len(self.book)}


# --- checks ---


def test_every_check_is_made_and_its_problems_keep_their_order(host: FakeHost) -> None:
    seen: list[tuple[int, int]] = []
    checks = [Found(("is dry", "is deep")), Found(), Found(("is far",))]
    problems = examine(checks, host.machine(), lambda done, total: seen.append((done, total)))
    assert [problem.message for problem in problems] == ["is dry", "is deep", "is far"]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_check_that_breaks_off_is_a_problem_beside_what_it_found(host: FakeHost) -> None:
    missing = CommandError(("tpm2_getcap",), "is not installed")
    checks = [Found(("is dry",), missing), Found(("is far",))]
    problems = examine(checks, host.machine(), lambda done, total: None)
    assert [str(problem) for problem in problems] == [
        "well: is dry",
        "the well has water: cannot be checked: tpm2_getcap: is not installed",
        "well: is far",
    ]


def test_a_bug_in_a_check_keeps_its_traceback(host: FakeHost) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        examine([Found(breaks=ZeroDivisionError())], host.machine(), lambda done, total: None)
    assert caught.traceback[-1].name == "problems"


# --- steps ---


def told(host: FakeHost) -> list[Event]:
    return [event for event in host.receiver.events if not event.is_progress]


def test_steps_run_in_their_order_and_their_evidence_is_kept_by_name(host: FakeHost) -> None:
    book: list[str] = []
    shown = carry_out([Note("one", book), Note("two", book)], host.machine(), host.reporter)
    assert book == ["one", "two"]
    assert shown == {"one": {"page": 1}, "two": {"page": 2}}
    assert host.receiver.told() == ["one started", "one finished", "two started", "two finished"]
    assert [event.message for event in told(host)] == ["Write one down", "", "Write two down", ""]
    assert told(host)[1].evidence["page"] == 1
    assert (told(host)[1].done, told(host)[1].total, told(host)[1].unit) == (1, 2, "pages")
    assert host.storage.calls == []


def running_mirror(host: FakeHost) -> Array:
    """Start an array that resynchronises and is held, as in the middle of an installation."""
    where = layout()
    host.storage.partition(where.disks)
    host.storage.mirror(where.arrays)
    host.kernel.hold_resync()
    host.storage.calls.clear()
    return where.array(Role.ROOT)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StepError("root: is too small"), "root: is too small"),
        (RuntimeError("off by one"), "RuntimeError: off by one"),
        (KeyboardInterrupt(), "interrupted"),
    ],
    ids=["failure", "bug", "interrupt"],
)
def test_after_a_failure_no_step_runs_and_the_disks_are_let_go_of(
    host: FakeHost, error: BaseException, reason: str
) -> None:
    running_mirror(host)
    book: list[str] = []
    steps = [Note("one", book), Note("two", book, error), Note("three", book)]
    with pytest.raises(type(error)) as caught:
        carry_out(steps, host.machine(), host.reporter)
    assert caught.value is error
    assert book == ["one", "two"]
    assert host.storage.calls == ["release"]
    assert host.storage.synced == ["idle", "idle"]
    assert host.receiver.told()[-1] == "two failed"
    assert told(host)[-1].message == reason


def test_a_bug_is_reported_with_its_traceback(host: FakeHost) -> None:
    with pytest.raises(RuntimeError) as caught:
        carry_out([Note("one", breaks=RuntimeError("off by one"))], host.machine(), host.reporter)
    assert caught.traceback[-1].name == "apply"
    lines = told(host)[-1].evidence["traceback"]
    assert isinstance(lines, list)
    assert any("in apply" in str(line) for line in lines)


def test_disks_that_cannot_be_let_go_of_do_not_hide_why(
    host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.storage.fails = "release"
    with pytest.raises(StepError, match="root: is too small"):
        carry_out(
            [Note("one", breaks=StepError("root: is too small"))], host.machine(), host.reporter
        )
    assert "release: does not work today" in caplog.text


def test_a_resync_that_cannot_be_resumed_does_not_keep_the_disks_held(
    host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(FakeKernel):
        def resume_resync(self) -> None:
            raise StepError("md127: sync_action idle: input/output error")

    host.kernel = host.storage.kernel = Stubborn()
    with caplog.at_level(logging.WARNING):
        let_go(host.machine())
    assert host.storage.calls == ["release"]
    assert "md127" in caplog.text
