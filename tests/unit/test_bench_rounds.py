"""How the bench runs programs: order of the rounds, costs, and programs that fail."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.process import FailedError, measure
from tests.bench.rounds import Case, race, rotated

CASES = ("a", "b", "c")


def test_every_case_is_once_in_every_round_and_first_in_one_of_them() -> None:
    orders = [rotated(CASES, number) for number in range(len(CASES))]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert rotated(CASES, 3) == orders[0]
    assert rotated((), 1) == []


def quiet() -> Console:
    return Console(file=io.StringIO())


def noting(seen: list[str], name: str, argv: tuple[str, ...] = ("true",)) -> Case:
    return Case(
        name,
        argv,
        prepare=lambda: seen.append(f"prepare {name}"),
        check=lambda: seen.append(f"check {name}"),
        finish=lambda: seen.append(f"finish {name}"),
    )


def test_rounds_are_interleaved_and_the_result_is_checked_in_the_first_one() -> None:
    seen: list[str] = []
    results = race("race", [noting(seen, "a"), noting(seen, "b")], 2, quiet(), patience=0)
    assert seen == [
        "prepare a", "check a", "finish a", "prepare b", "check b", "finish b",
        "prepare b", "finish b", "prepare a", "finish a",
    ]  # fmt: skip
    assert [len(results.costs[name]) for name in ("a", "b")] == [2, 2]


def test_a_case_that_fails_is_left_out_with_its_reason_and_the_others_go_on() -> None:
    seen: list[str] = []
    bad = noting(seen, "bad", ("sh", "-c", "echo no such device >&2; exit 3"))
    results = race("race", [bad, noting(seen, "good")], 2, quiet(), patience=0)
    assert seen.count("prepare bad") == seen.count("finish bad") == 1
    assert "check bad" not in seen
    assert "status 3" in results.missing["bad"]
    assert "no such device" in results.missing["bad"]
    assert results.figures("bad", lambda cost: cost.wall).values == ()
    assert len(results.figures("good", lambda cost: cost.wall).values) == 2


def test_a_case_that_made_something_wrong_has_no_time() -> None:
    def wrong() -> None:
        raise FailedError("wrote something else")

    results = race("race", [Case("fast", ("true",), check=wrong)], 2, quiet(), patience=0)
    assert results.figures("fast", lambda cost: cost.wall).missing == "wrote something else"
    assert "fast" not in results.costs


def test_a_case_that_cannot_be_had_is_not_started() -> None:
    seen: list[str] = []
    case = noting(seen, "desync")
    absent = Case(case.name, case.argv, case.prepare, missing="not in this release")
    results = race("race", [absent], 1, quiet(), patience=0)
    assert seen == []
    assert results.figures("desync", lambda cost: cost.wall).missing == "not in this release"


def test_cpu_and_memory_count_what_a_shell_started() -> None:
    # It keeps its memory for a second: a busy machine looks at it late.
    work = (
        "import time; hog = bytearray(60 << 20); any(i for i in range(3_000_000) if i < 0); "
        "time.sleep(1)"
    )
    script = f'"{sys.executable}" -c "{work}" | cat'
    cost = measure(("sh", "-c", script))
    # A loop of three million takes this long everywhere, and the shell itself takes nothing.
    assert cost.cpu > 0.03
    assert cost.wall >= 0.03
    assert cost.rss > 60 << 20


def test_memory_is_not_that_of_the_process_that_started_it() -> None:
    ballast = bytearray(80 << 20)
    assert measure(("sleep", "0.2")).rss < len(ballast)


def test_what_a_program_prints_is_kept() -> None:
    assert measure(("echo", "42")).said == "42\n"


def test_a_program_that_hangs_is_ended_with_what_it_started() -> None:
    with pytest.raises(FailedError, match="status -9"):
        measure(("sh", "-c", "sleep 60 & sleep 60"), timeout=0.2)


def test_memory_of_a_child_that_has_no_program_yet_is_counted_once(tmp_path: Path) -> None:
    """Programs are started by vfork: until exec, parent and child live in the same memory."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The child waits for the pipe's other end before its program starts (posix_spawn(3)).
    hold = (
        "import os; hog = bytearray(60 << 20); actions = [(os.POSIX_SPAWN_OPEN, 0, "
        f"{str(fifo)!r}, os.O_RDONLY, 0)]; "
        "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}, file_actions=actions), 0)"
    )
    script = f'(sleep 0.4; : > \'{fifo}\') & exec "$1" -c "$2"'
    cost = measure(("sh", "-c", script, "sh", sys.executable, hold))
    assert cost.wall > 0.4
    assert 60 << 20 < cost.rss < 100 << 20
