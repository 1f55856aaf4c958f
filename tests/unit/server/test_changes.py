from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.server.changes import Changes

T = TypeVar("T")


def finished(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(bounded())


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.sampled_from("abcdef")), st.integers(0, 40))
def test_a_reader_is_told_each_plan_that_changed_once(bumped: list[str], seen: int) -> None:
    changes = Changes()
    for plan in bumped:
        changes.bump(plan)
    version, plans = changes.since(seen)
    assert version == len(bumped)
    assert plans == (frozenset(bumped[seen:]) if seen <= len(bumped) else None)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)), st.integers(0, 40))
def test_what_was_forgotten_is_said_and_never_passed_over(bumped: list[int], seen: int) -> None:
    changes = Changes(limit=3)
    for plan in bumped:
        changes.bump(str(plan))
    _, plans = changes.since(min(seen, len(bumped)))
    assert plans is None or plans == {str(plan) for plan in bumped[seen:]}
    assert len(changes._latest) <= 3


def test_a_number_of_another_life_is_not_taken_for_one_of_ours() -> None:
    changes = Changes()
    assert changes.since(7) == (0, None)
    assert changes.since(-1) == (0, None)
    assert changes.epoch != Changes().epoch


def test_a_change_from_another_thread_wakes_everyone_who_waits() -> None:
    changes = Changes()

    async def three() -> list[bool]:
        waiting = [asyncio.create_task(changes.wait(0)) for _ in range(3)]
        while len(changes._waiters) < 3:
            await asyncio.sleep(0.01)
        threading.Thread(target=changes.bump, args=("a",)).start()
        return await asyncio.gather(*waiting)

    assert finished(three()) == [True, True, True]
    assert not changes._waiters


def test_a_change_that_came_before_the_wait_is_not_waited_for() -> None:
    changes = Changes()
    changes.bump("a")
    assert finished(changes.wait(0)) is True


def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    changes = Changes()
    assert finished(changes.wait(0, timeout=0.01)) is False
    assert not changes._waiters


def test_a_reader_whose_loop_is_gone_does_not_stop_the_others() -> None:
    changes = Changes()

    async def abandoned() -> None:
        waiting = asyncio.ensure_future(changes.wait(0))
        while not changes._waiters:
            await asyncio.sleep(0.01)
        left.append(next(iter(changes._waiters)))
        waiting.cancel()

    left: list[Any] = []
    finished(abandoned())
    changes._waiters.update(left)  # as if the loop had died before it could take itself out
    changes.bump("a")
    assert changes.version == 1
