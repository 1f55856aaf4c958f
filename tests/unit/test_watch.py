from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent.cli import main
from agent.errors import MachineError, Problem
from agent.report.event import State
from agent.server.board import Board
from agent.watch.feed import Feed, Message, Seen, Site, messages
from agent.watch.machine import card
from agent.watch.rows import screen
from agent.watch.wish import SORTS, Machine, Wish
from tests.page.fleet import Memory, failed, roll_out, told, until
from tests.page.serving import app_of, board_of, served
from tests.unit.report.receivers import event

PATIENCE = 60.0


@pytest.fixture(scope="module")
def fleet() -> list[Machine]:
    memory = Memory()
    roll_out(memory)
    return [each.document() for each in Board(memory, memory.changes, clock=memory.clock).entries()]


def drawn(machines: list[Machine], width: int, height: int | None = None, **wish: object) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    seen = Seen({each["id"]: each for each in machines})
    console.print(screen(seen, Wish(**wish), 1_795_388_000.0, width, height))  # type: ignore[arg-type]  # a wish's own fields
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def first_seen(feed: Feed, condition: Callable[[Seen], bool]) -> Seen:
    deadline, seen = time.monotonic() + PATIENCE, feed.wait(None, 0)
    while not condition(seen):
        assert time.monotonic() < deadline, seen
        seen = feed.wait(seen, 1)
    return seen


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.sampled_from("ab"), st.text("xyé \n")), max_size=5), st.integers(1, 9))
def test_a_stream_is_the_same_in_pieces_of_any_size(told: list[tuple[str, str]], size: int) -> None:
    content = b": a comment\n\n" + b"".join(
        f"id: {number}\nevent: {name}\ndata: {json.dumps(text)}\n\n".encode()
        for number, (name, text) in enumerate(told)
    )
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    _, *found = messages(pieces)
    assert found == [
        Message(name, json.dumps(text), str(number)) for number, (name, text) in enumerate(told)
    ]


def test_half_an_event_at_the_end_is_none() -> None:
    assert list(messages([b"data: 1\n\nda", b"ta: 2\n"])) == [Message("message", "1")]


def test_a_feed_follows_the_fleet() -> None:
    memory = Memory()
    memory.plan("plan-1", "db01")
    with served(app_of(board_of(memory))) as url, Feed(Site(url), pause=0.05) as feed:
        first_seen(feed, lambda seen: not seen.lost and "plan-1" in seen.machines)
        memory.tell([event(1, message="Encrypt")])
        seen = first_seen(feed, lambda seen: bool(seen.machines["plan-1"]["step"]))
    assert seen.machines["plan-1"]["step"] == "Encrypt"
    assert seen.machines["plan-1"]["name"] == "db01"
    assert seen.changed == {"plan-1"}


def test_a_feed_says_that_the_server_is_gone_and_comes_back_to_another_one() -> None:
    before, after = Memory(), Memory()
    before.plan("plan-1")
    after.plan("plan-2")
    with contextlib.ExitStack() as first:
        url = first.enter_context(served(app_of(board_of(before))))
        with Feed(Site(url), pause=0.05) as feed:
            first_seen(feed, lambda seen: "plan-1" in seen.machines)
            first.close()
            lost = first_seen(feed, lambda seen: bool(seen.lost))
            assert "plan-1" in lost.machines
            # Another life of the server: its numbers start anew.
            with served(app_of(board_of(after)), int(url.rpartition(":")[2])):
                back = first_seen(feed, lambda seen: not seen.lost)
                assert set(back.machines) == {"plan-2"}


class Breaking:
    """A server that tells a little more each time, and breaks the connection after it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def messages(self, last: str) -> Iterator[Message]:
        self.asked.append(last)
        number = len(self.asked)
        if number == 1:
            yield Message("fleet", '{"now": 5, "machines": [{"id": "a", "step": "1"}]}', "x-1")
        else:
            change = {"machines": [{"id": "a", "step": str(number)}], "gone": ["b"]}
            yield Message("change", json.dumps(change), f"x-{number}")
        raise requests.ConnectionError("cut")


def test_a_feed_asks_for_what_it_has_not_had() -> None:
    site = Breaking()
    with Feed(site, pause=0.01) as feed:
        first_seen(feed, lambda seen: seen.machines.get("a", {}).get("step", "0") >= "4")
    assert site.asked[:4] == ["", "x-1", "x-2", "x-3"]


@pytest.mark.parametrize("data", ["{", "[]", "7", '{"machines": 5}', '{"machines": [{}]}'])
def test_a_feed_outlives_what_is_no_fleet(data: str) -> None:
    class Odd:
        asked = 0

        def messages(self, last: str) -> Iterator[Message]:
            self.asked += 1
            yield Message("fleet", data if self.asked < 3 else '{"machines": [{"id": "a"}]}', "x-1")
            if self.asked >= 3:
                time.sleep(1)

    with Feed(Odd(), pause=0.01) as feed:
        first_seen(feed, lambda seen: "no fleet" in seen.lost or "a" in seen.machines)
        first_seen(feed, lambda seen: "a" in seen.machines)


def test_a_feed_gives_up_where_asking_again_does_not_help() -> None:
    class Closed:
        def messages(self, last: str) -> Iterator[Message]:
            raise MachineError([Problem("site", "is closed to us")])

    with Feed(Closed()) as feed, pytest.raises(MachineError):
        first_seen(feed, lambda seen: False)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 130, 170, 300])
def test_the_table_fits_any_width(fleet: list[Machine], width: int) -> None:
    lines = drawn(fleet, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("running" in line for line in lines) >= 1


def test_the_table_fits_the_height_and_says_how_many_are_left_out(fleet: list[Machine]) -> None:
    lines = drawn(fleet, 120, 20).splitlines()
    assert len(lines) <= 20
    assert "153 more below" in lines[-1]


def test_the_urgent_ones_come_first(fleet: list[Machine]) -> None:
    lines = drawn(fleet, 100).splitlines()[2:]
    order = ["failed", "silent", "running", "waiting", "installed"]
    states = [next(word for word in line.split() if word in order) for line in lines]
    assert states == sorted(states, key=order.index)
    assert states[0] == "failed"


@pytest.mark.parametrize("sort", SORTS)
def test_every_sort_orders_all_rows_and_can_be_turned_round(
    fleet: list[Machine], sort: str
) -> None:
    there = Wish(sort=sort).chosen(fleet)
    back = Wish(sort=sort, reverse=True).chosen(fleet)
    key = SORTS[sort]
    assert [key(each) for each in there] == [key(each) for each in reversed(back)]
    assert len(there) == len(fleet)


def test_words_and_states_narrow_the_rows(fleet: list[Machine]) -> None:
    chosen = Wish(words=("DB", "r1"), states=frozenset(["installed", "running"])).chosen(fleet)
    assert chosen
    assert all(each["name"].startswith("db") and ".r1." in each["name"] for each in chosen)
    assert Wish(words=("nobody",)).chosen(fleet) == []


def test_a_hostile_name_cannot_write_to_the_terminal() -> None:
    memory = Memory()
    memory.tell([event(1, message="\x1b[2J\x1b]0;owned\x07[red]x[/red]")])
    board = Board(memory, memory.changes, clock=memory.clock)
    text = drawn([each.document() for each in board.entries()], 200)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in text


@pytest.fixture
def site() -> Iterator[str]:
    memory = Memory()
    begun = until(told("p-2", "CZ2", memory.now - 90), "write-image", State.PROGRESS)
    memory.plan("p-1", "db01.example.com")
    memory.plan("p-2", "db02.example.com")
    memory.tell(told("p-1", "CZ1", memory.now - 400))
    memory.tell(failed(begun, "no mirror is left", ["the log's last line"]))
    with served(app_of(board_of(memory))) as url:
        yield url


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["watch", *arguments])
    return done.exit_code, done.output


def test_the_command_prints_the_table_once_where_there_is_no_terminal(site: str) -> None:
    status, text = run(site)
    assert status == 0
    assert "2 machines" in text
    assert text.index("failed") < text.index("installed")


def test_the_command_prints_json(site: str) -> None:
    status, text = run(site, "--once", "--json", "--state", "failed")
    document = json.loads(text)
    assert status == 0
    assert document["totals"]["machines"] == 2
    assert [each["name"] for each in document["machines"]] == ["db02.example.com"]


@pytest.mark.parametrize("name", ["p-2", "db02.example.com", "CZ2", "db02"])
def test_one_machine_is_found_by_any_of_its_names(site: str, name: str) -> None:
    status, text = run(site, "--plan", name, "--once")
    assert status == 0
    assert "no mirror is left" in text
    assert "the log's last line" in text
    assert "✓ Encrypt /dev/md/root" in text


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (503, "answers 503"),
        (429, "answers 429"),
        (401, "wants an operator's name and password (--user)"),
        (404, "answers 404: nothing here"),
    ],
)
def test_what_a_server_answers_is_said(status: int, reason: str) -> None:
    async def answer(_: Request) -> Response:
        return PlainTextResponse("nothing here\n", status)

    app = Starlette(routes=[Route("/v1/fleet", answer)])
    app.state.board = board_of(Memory())
    with served(app) as url:
        code, text = run(url, "--once")
    assert code == 4
    assert reason in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["http://127.0.0.1:1", "--once"], "no connection"),
        (["nonsense", "--once"], "is not a URL"),
        (["SITE", "--plan", "nobody"], "is no machine here"),
    ],
)
def test_what_cannot_be_shown_is_said(site: str, arguments: list[str], reason: str) -> None:
    status, text = run(*(site if each == "SITE" else each for each in arguments))
    assert status == 4
    assert reason in text


def test_the_password_is_read_from_a_file(site: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("sesame\nnot this\n")
    status, _ = run(site, "--user", "op", "--password-file", str(tmp_path / "password"))
    assert status == 0


def test_the_card_of_a_machine_nobody_heard_of_says_so() -> None:
    memory = Memory()
    memory.plan("p-1", "db01")
    board = Board(memory, memory.changes, clock=memory.clock)
    found = board.entry("p-1")
    assert found is not None
    console = Console(file=io.StringIO(), width=80)
    empty = {"now": 0, "runs": [], "log": [], "latest": [], "layout": {}, "picture": []}
    console.print(card({**found.document(), **empty}))
    assert isinstance(console.file, io.StringIO)
    assert "nothing was heard of it yet" in console.file.getvalue()
