from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report.event import Event, State, envelope_evidence
from agent.server import eventlog, events
from agent.server.eventlog import EventLog
from agent.server.events import EventStore, Row
from agent.server.page import render
from agent.server.plans import PlanStore
from agent.server.refusal import RefusalError
from agent.server.seen import Seen
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


def opened(site: Path) -> EventStore:
    plans = PlanStore(site / "plans")
    return EventStore(site / "events", site / "escrow", plans, clock=lambda: 1_700_000_100.0)


def body(*batch: Event) -> bytes:
    return b"".join(each.line for each in batch)


def stored(site: Path, plan: str = "plan-1") -> list[int]:
    lines = (site / "events" / f"{plan}.jsonl").read_bytes().splitlines()
    return [json.loads(line)["seq"] for line in lines]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(0, 40)))
def test_seen_numbers_are_a_set(numbers: list[int]) -> None:
    seen = Seen()
    for number in numbers:
        seen.add(number)
    assert {number for number in range(42) if number in seen} == set(numbers)


def test_seen_numbers_in_a_row_take_no_memory() -> None:
    seen = Seen()
    for number in range(100_000):
        seen.add(number)
    assert len(seen._starts) == 1
    assert not seen.full


def test_a_batch_is_answered_with_its_highest_number(site: Path) -> None:
    answer = opened(site).take(body(event(1), event(2)), token="", plan="")
    assert answer == {"accepted": 2}
    assert stored(site) == [1, 2]


@settings(deadline=None)  # the machine may be busy
@given(batches=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), max_size=10))
def test_replays_in_any_order_store_every_event_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    site = tmp_path_factory.mktemp("site")
    for name in ("plans", "events", "escrow"):
        (site / name).mkdir()
    for batch in batches:
        # A new store each time: the server is restarted between any two batches.
        opened(site).take(body(*map(event, batch)), token="", plan="")
    if batches:
        assert sorted(stored(site)) == sorted({number for batch in batches for number in batch})


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
    assert list((site / "events").iterdir()) == []


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


def test_half_a_line_left_by_a_crash_costs_that_line_only(site: Path) -> None:
    opened(site).take(body(event(1), event(2)), token="", plan="")
    path = site / "events" / "plan-1.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    opened(site).take(body(event(2), event(3)), token="", plan="")
    whole = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
    assert [Event.from_json(line).seq for line in whole] == [1, 2, 3]


def test_an_envelope_is_kept_and_acknowledged_by_its_digest(site: Path) -> None:
    store, digest = opened(site), hashlib.sha256(DER).hexdigest()
    sent = event(4, State.PROGRESS, step="escrow", evidence=envelope_evidence(DER, {"luks": "u"}))
    for _ in range(2):  # a replay is answered the same
        assert store.take(sent.line, token="", plan="") == {"accepted": 4, "acknowledged": digest}
    kept = site / "escrow" / f"plan-1-{digest}.p7m"
    assert kept.read_bytes() == DER
    assert kept.stat().st_mode & 0o777 == 0o600
    assert list((site / "escrow").iterdir()) == [kept]
    log = (site / "events" / "plan-1.jsonl").read_text()
    assert digest in log
    assert base64.b64encode(DER).decode() not in log


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
    for number in range(events.ENVELOPES_LIMIT):
        der = b"\x30" + number.to_bytes(4, "big")
        sent = event(number + 1, step="escrow", evidence=envelope_evidence(der, {}))
        store.take(sent.line, token="", plan="")
    with pytest.raises(RefusalError) as caught:
        store.take(one_more.line, token="", plan="")
    assert caught.value.status == 507


def test_plans_that_nobody_knows_are_bounded_and_known_ones_still_heard(site: Path) -> None:
    store = EventStore(site / "events", site / "escrow", PlanStore(site / "plans"), strangers=3)
    for number in range(3):
        store.take(event(1, plan=f"stranger-{number}").line, token="", plan="")
    with pytest.raises(RefusalError) as caught:
        store.take(event(1, plan="one-more").line, token="", plan="")
    assert caught.value.status == 507
    assert store.take(event(1, plan="with-token").line, token="sesame", plan="") == {"accepted": 1}


def test_a_full_log_refuses_and_stores_nothing_of_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with path.open("wb") as file:
        file.truncate(eventlog.SIZE_LIMIT - 10)
    with pytest.raises(RefusalError) as caught:
        EventLog(path).append([event(1)], now=0)
    assert caught.value.status == 507
    assert path.stat().st_size == eventlog.SIZE_LIMIT - 10


def test_a_sender_that_leaves_endless_gaps_is_cut_off() -> None:
    seen = Seen()
    for number in range(0, 20_000, 2):
        seen.add(number)
        if seen.full:
            break
    assert seen.full


def fleet(site: Path, *told: Event, now: float = 1_700_000_130.0) -> str:
    store = opened(site)
    for each in told:
        store.take(each.line, token="sesame", plan="")
    return render(store.rows(), now=now)


def test_the_page_shows_every_machine_with_its_step_and_bar(site: Path) -> None:
    page = fleet(
        site,
        event(1, message="Encrypt the disks"),
        event(2, State.PROGRESS, done=2**29, total=2**31, unit="bytes", rate=2.0**20),
    )
    assert "2 machines: 0 installed, 1 running, 0 failed, 1 waiting." in page
    assert "db01.example.com" in page
    assert "Encrypt the disks" in page
    assert '<progress value="0.250">' in page
    assert "512.0 MiB of 2.0 GiB, 1.0 MiB/s" in page
    assert "30.0 s ago" in page


def test_the_page_shows_who_is_installed_failed_or_silent(site: Path) -> None:
    last = {"step": "install", "message": "disk gone"}
    page = fleet(
        site,
        event(1, State.FINISHED, plan="good", **last),
        event(1, State.FAILED, plan="bad", **last),
        event(1, plan="lost"),
        now=1_700_009_999.0,
    )
    assert "4 machines: 1 installed, 1 running, 1 failed, 1 waiting." in page
    assert "<td class='silent'>silent</td>" in page
    assert "<td class='failed'>failed</td><td>disk gone</td>" in page


def test_a_first_boot_that_reports_in_a_run_of_its_own_stays_installed(site: Path) -> None:
    page = fleet(
        site,
        event(1, State.FINISHED, step="install"),
        event(1, State.FINISHED, run="boot", step="seal", evidence={"seconds": 4}),
    )
    assert "1 installed" in page


@pytest.mark.parametrize("field", ["machine", "message", "unit", "step"])
def test_hostile_text_on_the_page_is_text(site: Path, field: str) -> None:
    evil = "<b>'\"&" if field == "unit" else "<script>alert(1)</script>'\""
    sent = event(1, State.PROGRESS, done=1, total=2, **{field: evil})
    page = fleet(site, sent)
    assert "<script" not in page
    assert evil not in page


def test_a_page_of_a_thousand_machines_is_quick() -> None:
    rows = [Row(f"plan-{number}", None, None) for number in range(1000)]
    assert render(rows, now=0).count("<tr>") == 1001
