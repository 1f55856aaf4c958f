from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.report.event import Event, State, envelope_evidence
from agent.server import batches, escrow
from agent.server.eventlog import EventLog, Pictures
from agent.server.events import EventStore, Row
from agent.server.limits import Buckets, Limits
from agent.server.plans import PlanFile, PlanStore
from agent.server.reading import remove
from agent.server.refusal import RefusalError
from tests.unit.report.receivers import event

DER = b"\x30\x03\x02\x01\x05"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("plans", "events", "escrow"):
        (tmp_path / name).mkdir()
    (tmp_path / "plans" / "a.yaml").write_text(
        "id: with-token\nhostname: db01.example.com\n"
        "report: [{type: http, url: u, token: sesame}]\nmachine: {serial: A}\n"
    )
    return tmp_path


def opened(site: Path, **options: Any) -> EventStore:
    plans = PlanStore(site / "plans")
    clock = {"clock": lambda: 1_700_000_100.0}
    made = EventStore(site / "events", site / "escrow", plans, **(clock | options))
    OPENED.append(made)
    return made


OPENED: list[EventStore] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close what a test has opened: an open connection that is forgotten is a warning."""
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture
def store(site: Path) -> EventStore:
    return opened(site)


def mine(site: Path) -> PlanFile:
    (found,) = PlanStore(site / "plans").all()
    return found


def body(*batch: Event) -> bytes:
    return b"".join(each.line for each in batch)


def stored(site: Path, plan: str = "plan-1") -> list[int]:
    with contextlib.closing(opened(site)) as store:
        return [json.loads(line)["seq"] for line in store.lines_of(plan)]


def test_a_batch_is_answered_with_its_highest_number(site: Path) -> None:
    answer = opened(site).take(body(event(1), event(2)), token="", plan="")
    assert answer == {"accepted": 2}
    assert stored(site) == [1, 2]


@settings(deadline=None, max_examples=30)  # the machine may be busy
@given(batches=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), max_size=6))
def test_replays_in_any_order_store_every_event_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    site = tmp_path_factory.mktemp("site")
    for name in ("plans", "events", "escrow"):
        (site / name).mkdir()
    for batch in batches:
        # A new store each time: the server is restarted between any two batches.
        with contextlib.closing(opened(site)) as store:
            store.take(body(*map(event, batch)), token="", plan="")
    arrived = list(dict.fromkeys(number for batch in batches for number in batch))
    assert stored(site) == arrived


def test_two_runs_of_one_plan_are_two(site: Path) -> None:
    store = opened(site)
    store.take(body(event(1)), token="", plan="")
    store.take(body(event(1, run="run-2"), event(1, machine="other")), token="", plan="")
    assert stored(site) == [1, 1, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"garbage", "line 1: event: is not JSON"),
        (event(1).line + b"{}\n", "line 2: version: must be 1"),
        (event(1).line + event(2, plan="other").line, "plan: must be given, and one for all"),
        (event(1, plan="").line, "plan: must be given"),
    ],
)
def test_a_bad_batch_is_refused_as_a_whole(site: Path, content: bytes, reason: str) -> None:
    with pytest.raises(RefusalError) as caught:
        opened(site).take(content, token="", plan="")
    assert (caught.value.status, reason in caught.value.message) == (400, True)
    assert list(opened(site).rows()) == [Row("with-token", mine(site), None)]


@pytest.mark.parametrize("plan", ["with-token", "WITH-TOKEN", "a"])
@pytest.mark.parametrize("token", ["", "wrong", "sesame "])
def test_a_plan_with_a_token_takes_events_with_it_only(site: Path, token: str, plan: str) -> None:
    store = opened(site)
    for content, header in ((event(1, plan=plan).line, ""), (b"", plan)):
        with pytest.raises(RefusalError) as caught:
            store.take(content, token=token, plan=header)
        assert caught.value.status == 401
        assert "sesame" not in caught.value.message
    assert store.take(event(1, plan=plan).line, token="sesame", plan="") == {"accepted": 1}
    assert store.take(b"", token="sesame", plan=plan) == {"accepted": 0, "escrow": True}
    assert stored(site, "with-token") == [1]


def test_files_of_an_older_server_are_taken_in_once(site: Path) -> None:
    path = site / "events" / "plan-1.jsonl"
    half = event(3).line[:-20] + b"\n"  # a crash in the middle of a write
    path.write_bytes(body(event(1), event(2)) + half + event(4, plan="plan-1").line)
    (site / "events" / "no plan.jsonl").write_bytes(b"not ours")
    assert stored(site) == [1, 2, 4]
    assert not path.exists()
    assert path.with_name("plan-1.jsonl.imported").exists()
    path.write_bytes(body(event(2), event(5)))  # put back by somebody
    assert stored(site) == [1, 2, 4, 5]
    log = opened(site).log_of("plan-1")
    assert log is not None
    assert log.heard == path.with_name("plan-1.jsonl.imported").stat().st_mtime


def test_an_envelope_is_kept_and_acknowledged_by_its_digest(site: Path) -> None:
    store, digest = opened(site), hashlib.sha256(DER).hexdigest()
    sent = event(4, State.PROGRESS, step="escrow", evidence=envelope_evidence(DER, {"luks": "u"}))
    for _ in range(2):  # a replay is answered the same
        assert store.take(sent.line, token="", plan="") == {"accepted": 4, "acknowledged": digest}
    kept = site / "escrow" / f"plan-1-{digest}.p7m"
    assert kept.read_bytes() == DER
    assert kept.stat().st_mode & 0o777 == 0o600
    assert list((site / "escrow").iterdir()) == [kept]
    log = b"".join(store.lines_of("plan-1"))
    assert digest.encode() in log
    for file in site.glob("bedplate.sqlite*"):
        assert base64.b64encode(DER) not in file.read_bytes()


@pytest.mark.parametrize(
    "batch",
    [
        body(event(1), event(2, step="escrow", evidence=envelope_evidence(DER, {}))),
        body(event(1, step="escrow", evidence=envelope_evidence(DER, {})), event(2)),
        event(1, step="escrow", evidence={"envelope": "garbage"}).line,
        event(1, step="other", evidence=envelope_evidence(DER, {})).line,
        event(1, step="escrow", evidence=envelope_evidence(DER, {}) | {"sha256": "00"}).line,
    ],
)
def test_an_envelope_that_cannot_be_kept_is_never_acknowledged(site: Path, batch: bytes) -> None:
    with pytest.raises(RefusalError) as caught:
        opened(site).take(batch, token="", plan="")
    assert caught.value.status == 400
    assert list((site / "escrow").iterdir()) == []


def test_the_envelopes_of_one_plan_are_bounded(site: Path) -> None:
    store = opened(site)
    one_more = event(1000, step="escrow", evidence=envelope_evidence(DER, {}))
    for number in range(escrow.ENVELOPES_LIMIT):
        der = b"\x30" + number.to_bytes(4, "big")
        sent = event(number + 1, step="escrow", evidence=envelope_evidence(der, {}))
        store.take(sent.line, token="", plan="")
    with pytest.raises(RefusalError) as caught:
        store.take(one_more.line, token="", plan="")
    assert caught.value.status == 507


def test_plans_that_nobody_knows_are_bounded_and_known_ones_still_heard(site: Path) -> None:
    store = opened(site, strangers=3)
    for number in range(3):
        store.take(event(1, plan=f"stranger-{number}").line, token="", plan="")
    with pytest.raises(RefusalError) as caught:
        store.take(event(1, plan="one-more").line, token="", plan="")
    assert caught.value.status == 507
    assert store.take(event(1, plan="with-token").line, token="sesame", plan="") == {"accepted": 1}


@pytest.mark.parametrize("plan", ["with-token", "stranger"])
def test_a_full_log_refuses_and_stores_nothing_of_the_batch(site: Path, plan: str) -> None:
    store = opened(site)
    limit = batches.SIZE_LIMIT if plan == "with-token" else batches.STRANGER_SIZE_LIMIT
    big = {"x": "x" * 250_000}
    more = [event(limit + n, plan=plan, evidence=big) for n in range(2, 6)]

    def fill() -> None:
        for first in range(1, limit // 250_000 + 5, 4):
            told = (event(seq, plan=plan, evidence=big) for seq in range(first, first + 4))
            store.take(body(*told), token="sesame", plan="")

    with pytest.raises(RefusalError) as caught:
        fill()
    assert caught.value.status == 507
    count = len(stored(site, plan))
    assert count * 250_000 < limit < (count + 5) * 250_000
    small = event(limit, plan=plan)  # what fits is still taken
    assert store.take(small.line, token="sesame", plan="") == {"accepted": limit}
    with pytest.raises(RefusalError):
        store.take(body(event(limit + 1, plan=plan), *more), token="sesame", plan="")
    assert len(stored(site, plan)) == count + 1


def test_the_runs_of_one_plan_are_bounded(site: Path) -> None:
    store = opened(site)
    runs = [event(1, run=f"run-{number}") for number in range(batches.RUNS_LIMIT)]
    for start in range(0, len(runs), 250):
        store.take(body(*runs[start : start + 250]), token="", plan="")
    with pytest.raises(RefusalError) as caught:
        store.take(event(1, run="one-more").line, token="", plan="")
    assert caught.value.status == 507
    assert store.take(event(2, run="run-7").line, token="", plan="") == {"accepted": 2}


def test_one_batch_of_too_many_runs_leaves_nothing(site: Path) -> None:
    runs = [event(1, run=f"run-{number}") for number in range(batches.RUNS_LIMIT + 1)]
    with pytest.raises(RefusalError):
        opened(site).take(body(*runs), token="", plan="")
    assert opened(site).log_of("plan-1") is None


def test_whoever_asks_later_sees_what_whoever_listened_saw(site: Path) -> None:
    """A restarted server reads only what matters of thousands of progress events."""
    store = opened(site)
    steps = [{"name": "image", "title": "Write the image"}]
    store.take(event(1, step="install", evidence={"steps": steps}).line, token="", plan="")
    store.take(event(2, step="image", message="Write").line, token="", plan="")
    for first in range(3, 900, 300):
        figures = {"step": "image", "total": 1000, "unit": "bytes", "rate": 5.0}
        told = (event(n, State.PROGRESS, done=n, **figures) for n in range(first, first + 300))
        store.take(body(*told), token="", plan="")
    listened, asked = store.log_of("plan-1"), opened(site).log_of("plan-1")
    assert listened is not None
    assert asked is not None
    assert list(asked.checklist) == list(listened.checklist)
    assert asked.checklist.current == listened.checklist.current
    assert (asked.heard, asked.count) == (listened.heard, listened.count) == (1_700_000_100.0, 902)


def test_what_another_server_took_is_seen(site: Path) -> None:
    one, other = opened(site), opened(site)
    one.take(event(1).line, token="", plan="")
    other.take(event(2, State.FINISHED).line, token="", plan="")
    one.take(event(3, step="image").line, token="", plan="")
    for store in (one, other):
        (row,) = [row for row in store.rows() if row.plan == "plan-1"]
        assert row.log is not None
        assert [line.name for line in row.log.checklist] == ["encrypt", "image"]
        assert store.counts() == {"plan-1": 3}


def test_changes_and_observers_hear_of_new_events_only(site: Path) -> None:
    heard: list[tuple[int, ...]] = []
    store = opened(site, observers=[lambda s: heard.append(tuple(e.seq for e in s.fresh))])
    store.take(body(event(1), event(2)), token="", plan="")
    store.take(body(event(2), event(3)), token="", plan="")
    assert heard == [(1, 2), (3,)]
    assert store.changes.since(0)[1] == frozenset({"plan-1"})


def test_many_threads_lose_nothing_and_keep_each_machines_order(site: Path) -> None:
    store = opened(site)

    def install(number: int) -> None:
        for seq in range(1, 31):
            store.take(
                event(seq, plan=f"plan-{number % 4}", run=str(number)).line, token="", plan=""
            )

    machines = [threading.Thread(target=install, args=(number,)) for number in range(16)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    for plan in range(4):
        told = [Event.from_json(line) for line in store.lines_of(f"plan-{plan}")]
        for run in {each.run for each in told}:
            assert [each.seq for each in told if each.run == run] == list(range(1, 31))
        assert len(told) == 120


def test_pictures_forget_the_least_wanted_and_never_go_back() -> None:
    pictures = Pictures(limit=3 * 2048)
    for number in range(4):
        pictures.put(EventLog(f"plan-{number}", count=2))
        pictures.get("plan-0")
    assert [pictures.get(f"plan-{number}") is None for number in range(4)] == [
        False,
        True,
        False,
        False,
    ]
    pictures.put(EventLog("plan-0", count=1))
    latest = pictures.get("plan-0")
    assert latest is not None
    assert latest.count == 2


def test_what_was_removed_is_gone_and_its_plan_starts_anew(site: Path) -> None:
    store = opened(site)
    store.take(body(event(1, message="Old"), event(2)), token="", plan="")
    assert remove(store.database, "plan-1")
    assert not remove(store.database, "plan-1")
    assert store.log_of("plan-1") is None
    store.take(body(event(1, message="New"), event(2, step="image")), token="", plan="")
    for each in (store, opened(site)):
        log = each.log_of("plan-1")
        assert log is not None
        assert [line.title for line in log.checklist] == ["New", "image"]
    assert stored(site) == [1, 2]


def test_ten_thousand_unknown_machines_do_not_make_it_grow(site: Path) -> None:
    limits = Limits(clients=Buckets(rate=5, burst=200, limit=500))
    store = opened(site, strangers=200, limits=limits)

    def machine(number: int) -> int:
        sent = event(1, plan=f"stranger-{number}", message="x" * 2000).line
        client = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        try:
            store.take(sent, token="", plan="", client=client)
        except RefusalError as refusal:
            return refusal.status
        return 200

    assert [machine(number) for number in range(300)] == [200] * 200 + [507] * 100
    files = sum(path.stat().st_size for path in site.glob("bedplate.sqlite*"))
    assert {machine(number) for number in range(300, 9000)} == {507}
    tracemalloc.start()  # for the last tenth only: it makes everything slow
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert {machine(number) for number in range(9000, 10_000)} == {507}
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # What is replaced was not traced, so the buckets of 500 clients count: 150 kB.
    assert grown < 1_000_000
    assert sum(path.stat().st_size for path in site.glob("bedplate.sqlite*")) == files


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from([event(1).line, event(2, plan="x").line, b"{}", b"[", b'{"version":1}\n'])
        | st.binary(max_size=40),
        max_size=6,
    ).map(b"\n".join)
)
def test_any_body_is_taken_or_refused_as_a_mistake(store: EventStore, body: bytes) -> None:
    status = 200
    try:
        store.take(body, token="", plan="")
    except RefusalError as refusal:
        status = refusal.status
    assert status in (200, 400)
