"""The live stream, over a real server on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from agent.report.event import State
from agent.server import board as board_module
from agent.server.board import Board
from agent.watch.feed import Message, Site, messages
from tests.page.fleet import Memory, told
from tests.page.serving import app_of, board_of, served
from tests.unit.report.receivers import event

PATIENCE = 60.0


@pytest.fixture
def memory() -> Memory:
    memory = Memory()
    memory.plan("plan-1", "db01.example.com")
    memory.plan("plan-2", "db02.example.com")
    return memory


@contextlib.contextmanager
def reading(url: str, last: str = "") -> Iterator[Iterator[Message]]:
    headers = {"Last-Event-ID": last} if last else {}
    with requests.get(
        f"{url}/v1/fleet/stream", headers=headers, stream=True, timeout=PATIENCE
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield (each for each in messages(answer.iter_content(None)) if each.data)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message.data)
    return found


def test_a_viewer_gets_the_fleet_and_then_only_what_changes(memory: Memory) -> None:
    with served(app_of(board_of(memory))) as url, reading(url) as stream:
        first = next(stream)
        assert first.event == "fleet"
        assert {each["name"] for each in read(first)["machines"]} == {
            "db01.example.com",
            "db02.example.com",
        }
        memory.tell([event(1, message="Encrypt the disks")])
        change = next(stream)
        assert change.event == "change"
        (only,) = read(change)["machines"]
        assert only["id"] == "plan-1"
        assert only["state"] == "running"
        assert only["step"] == "Encrypt the disks"
        assert "name" not in only
        assert "mirror" not in only


def test_one_who_comes_back_gets_what_he_missed_and_no_more(memory: Memory) -> None:
    board = board_of(memory)
    with served(app_of(board)) as url:
        with reading(url) as stream:
            last = next(stream).id
        until(lambda: board.viewers == 0)
        memory.tell([event(1)])
        with reading(url, last) as stream:
            missed = next(stream)
    assert missed.event == "change"
    assert [each["id"] for each in read(missed)["machines"]] == ["plan-1"]


@pytest.mark.parametrize("last", ["other-3", "garbage", "-1", "0" * 300])
def test_an_id_that_is_not_of_this_life_gets_the_whole_fleet(memory: Memory, last: str) -> None:
    with served(app_of(board_of(memory))) as url, reading(url, last) as stream:
        assert next(stream).event == "fleet"


def test_one_who_missed_too_much_gets_the_whole_fleet(memory: Memory) -> None:
    board = board_of(memory)
    board.advance()
    for number in range(1, board_module.FRAMES_KEPT + 10):
        memory.tell([event(number, message=f"Step {number}")])
        board.advance()
    number, frames = board.after(2)
    assert b"event: fleet" in frames[0]
    assert [b"event: change" in frame for frame in board.after(number - 3)[1]] == [True] * 3


def test_all_viewers_are_given_the_same_bytes(memory: Memory) -> None:
    board = board_of(memory)
    board.advance()
    assert board.after(-1)[1][0] is board.after(-1)[1][0]
    seen = board.after(-1)[0]
    memory.tell([event(1)])
    board.advance()
    assert board.after(seen)[1][0] is board.after(seen)[1][0]


@pytest.mark.parametrize("read_by", ["entries", "document", "entry"])
def test_what_somebody_else_has_read_is_still_told_to_the_viewers(
    memory: Memory, read_by: str
) -> None:
    board = board_of(memory)
    board.advance()
    seen = board.after(-1)[0]
    memory.tell([event(1, message="Encrypt")])
    board.entry("plan-1") if read_by == "entry" else getattr(board, read_by)()
    (snapshot,) = messages(board.after(-1)[1])
    assert "Encrypt" not in snapshot.data  # its number is from before the change
    board.advance()
    (message,) = messages(board.after(seen)[1])
    assert read(message)["machines"][0]["step"] == "Encrypt"


def test_nothing_is_sent_where_nothing_changed(memory: Memory) -> None:
    board = board_of(memory)
    board.advance()
    before = board.after(-1)[0]
    memory.changes.bump("plan-1")
    board.advance()
    assert board.after(before) == (before, [])


def test_a_quiet_stream_beats(memory: Memory) -> None:
    with served(app_of(board_of(memory, beat=0.05))) as url, reading(url) as stream:
        assert [next(stream).event for _ in range(3)] == ["fleet", "beat", "beat"]


def test_a_plan_that_was_taken_away_is_said_to_be_gone(memory: Memory) -> None:
    board = board_of(memory)
    board.advance()
    memory.forget("plan-2")
    memory.now += board_module.SWEEP
    seen = board.after(-1)[0]
    board.advance()
    (frame,) = board.after(seen)[1]
    (message,) = messages([frame])
    assert read(message)["gone"] == ["plan-2"]


def test_a_machine_falls_silent_without_an_event(memory: Memory) -> None:
    board = board_of(memory)
    memory.tell([event(1)])
    board.advance()
    seen = board.after(-1)[0]
    memory.now += 61
    board.advance()
    (message,) = messages(board.after(seen)[1])
    assert read(message)["machines"] == [{"id": "plan-1", "state": "silent"}]


def test_a_viewer_who_goes_away_is_forgotten(memory: Memory) -> None:
    board = board_of(memory)
    with served(app_of(board)) as url:
        with reading(url) as stream:
            next(stream)
            assert board.viewers == 1
        until(lambda: board.viewers == 0)


def test_a_reader_who_does_not_read_holds_nobody_up_and_ends_at_the_latest(memory: Memory) -> None:
    for number in range(60):
        memory.plan(f"many-{number}", "x" * 400)
    board = board_of(memory, tick=0.05)
    with served(app_of(board)) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            stuck.sendall(b"GET /v1/fleet/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: board.viewers == 1)
            with reading(url) as stream:
                next(stream)
                for round_ in range(1, 9):
                    for number in range(60):
                        memory.tell(
                            [event(round_, plan=f"many-{number}", message=f"{round_}" * 400)]
                        )
                    memory.tell([event(round_, plan="plan-1", message=f"round {round_}")])
                    while f"round {round_}" not in next(stream).data:
                        pass
            memory.tell([event(999, plan="plan-1", message="the end")])
            received = b""
            while b"the end" not in received:
                piece = stuck.recv(65536)
                assert piece
                received = received[-100:] + piece


def test_the_detail_and_the_fleet_are_there_as_json(memory: Memory) -> None:
    memory.tell(told("plan-1", "CZ1", memory.now - 500))
    with served(app_of(board_of(memory))) as url:
        fleet = Site(url).get("v1/fleet")
        assert fleet["totals"]["installed"] == 1
        assert [each["state"] for each in fleet["machines"]] == ["installed", "waiting"]
        found = requests.get(f"{url}/v1/fleet/plan-1", timeout=PATIENCE)
        assert found.json()["runs"][1]["steps"][0]["name"] == "find"
        assert found.json()["name"] == "db01.example.com"


def test_files_are_ours_only_and_not_sent_twice(memory: Memory) -> None:
    with served(app_of(board_of(memory))) as url:
        found = requests.get(f"{url}/static/fleet.js", timeout=PATIENCE)
        assert found.headers["content-type"].startswith("text/javascript")
        again = requests.get(
            f"{url}/static/fleet.js",
            headers={"If-None-Match": found.headers["etag"]},
            timeout=PATIENCE,
        )
        assert (again.status_code, again.content) == (304, b"")
        for other in ("views.py", "..%2fviews.py", "%2e%2e/views.py", ""):
            assert requests.get(f"{url}/static/{other}", timeout=PATIENCE).status_code == 404


def test_the_page_allows_nothing_inline(memory: Memory) -> None:
    with served(app_of(board_of(memory))) as url:
        answer = requests.get(f"{url}/", timeout=PATIENCE)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "style=" not in answer.text
    assert "<script>" not in answer.text
    assert "onclick" not in answer.text


def test_state_is_what_the_board_says() -> None:
    memory = Memory()
    memory.tell([event(1, State.FAILED, step="install", message="no disk")])
    assert [each.state for each in Board(memory, memory.changes).entries()] == ["failed"]
