"""The event store on SQLite and on a real PostgreSQL: the same behaviour, several servers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import MachineError
from agent.report.event import Event, State, envelope_evidence
from agent.report.http import HttpSink
from agent.report.reporter import Reporter
from agent.secret import Secret
from agent.server import Options, batches, running
from agent.server.database import Database
from agent.server.escrow import EscrowFiles, EscrowTable
from agent.server.events import EventStore
from agent.server.plans import PlanStore
from agent.server.refusal import RefusalError
from tests.adapters.postgres import Postgres, postgres
from tests.unit.report.receivers import event

DER = b"\x30\x03\x02\x01\x05"
Opener = Callable[..., EventStore]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Postgres]:
    with postgres() as running_cluster:
        yield running_cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def opener(request: pytest.FixtureRequest, tmp_path: Path, cluster: Postgres) -> Iterator[Opener]:
    """Open a store on the same empty database each time, as one more server would."""
    for name in ("plans", "events", "escrow"):
        (tmp_path / name).mkdir()
    url = cluster.database() if request.param == "postgresql" else ""
    opened: list[EventStore] = []

    def open_store(strangers: int = 1000) -> EventStore:
        database = Database.at(url) if url else Database.sqlite(tmp_path / "bedplate.sqlite")
        escrow = EscrowTable(database) if url else EscrowFiles(tmp_path / "escrow")
        plans = PlanStore(tmp_path / "plans")
        store = EventStore(
            tmp_path / "events", escrow, plans, database=database, strangers=strangers
        )
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


def body(*batch: Event) -> bytes:
    return b"".join(each.line for each in batch)


def stored(store: EventStore, plan: str = "plan-1") -> list[int]:
    return [json.loads(line)["seq"] for line in store.lines_of(plan)]


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15
)
@given(
    told=st.lists(
        st.tuples(st.integers(0, 1), st.lists(st.integers(1, 20), min_size=1, max_size=8)),
        max_size=8,
    ),
)
def test_two_servers_store_every_event_once_and_in_order(
    opener: Opener, told: list[tuple[int, list[int]]]
) -> None:
    plan = f"plan-{uuid.uuid4()}"
    servers = (opener(), opener())
    for server, numbers in told:
        sent = (event(number, plan=plan) for number in numbers)
        servers[server].take(body(*sent), token="", plan="")
    arrived = list(dict.fromkeys(number for _, numbers in told for number in numbers))
    for store in servers:
        assert stored(store, plan) == arrived
        log = store.log_of(plan)
        assert (log.count if log else 0) == len(arrived)
        store.close()


def test_servers_that_store_at_once_neither_lose_nor_lock_each_other(opener: Opener) -> None:
    servers = (opener(), opener())
    failures: list[Exception] = []

    def install(number: int) -> None:
        try:
            for seq in range(1, 21):
                sent = [
                    event(seq, plan=f"plan-{(number + n) % 3}", run=f"{number}") for n in range(3)
                ]
                for each in sent:
                    servers[(number + seq) % 2].take(each.line, token="", plan="")
        except Exception as error:
            failures.append(error)

    machines = [threading.Thread(target=install, args=(number,)) for number in range(12)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    assert failures == []
    for plan in range(3):
        told = [Event.from_json(line) for line in servers[0].lines_of(f"plan-{plan}")]
        assert len(told) == 12 * 20
        for run in range(12):
            assert [e.seq for e in told if e.run == f"{run}"] == list(range(1, 21))


def test_names_with_anything_in_them_are_stored_and_given_back(opener: Opener) -> None:
    odd = event(1, machine="Ω'\"\\ $1 %s :x", run="é", message="\x00\ud800 \n'", step="🙂")
    store = opener()
    store.take(odd.line, token="", plan="")
    store.take(odd.line, token="", plan="")
    assert list(store.lines_of("plan-1")) == [odd.line]
    assert Event.from_json(odd.line) == odd


def test_limits_refuse_and_leave_nothing_of_the_batch(opener: Opener) -> None:
    store = opener(strangers=20)
    runs = [event(1, run=f"run-{number}") for number in range(batches.RUNS_LIMIT)]
    store.take(body(*runs[:600]), token="", plan="")
    store.take(body(*runs[600:]), token="", plan="")
    for refused in (body(event(2, run="run-1"), event(1, run="more")), event(1, run="more").line):
        with pytest.raises(RefusalError) as caught:
            store.take(refused, token="", plan="")
        assert caught.value.status == 507
    assert len(stored(store)) == batches.RUNS_LIMIT
    for number in range(19):
        store.take(event(1, plan=f"stranger-{number}").line, token="", plan="")
    with pytest.raises(RefusalError, match="too many plans"):
        store.take(event(1, plan="stranger-20").line, token="", plan="")
    assert store.log_of("stranger-20") is None


def test_one_that_is_refused_takes_nobody_along(opener: Opener) -> None:
    """Batches that wait together are committed together, and judged each for itself."""
    store = opener()
    outcomes: dict[int, object] = {}

    def send(number: int) -> None:
        runs = batches.RUNS_LIMIT + 1 if number % 5 == 0 else 1
        sent = [event(1, plan=f"plan-{number}", run=f"{run}") for run in range(runs)]
        try:
            outcomes[number] = store.take(body(*sent), token="", plan="")
        except RefusalError as refusal:
            outcomes[number] = refusal.status

    senders = [threading.Thread(target=send, args=(number,)) for number in range(20)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    wanted = {n: 507 if n % 5 == 0 else {"accepted": 1} for n in range(20)}
    assert outcomes == wanted


def test_an_envelope_is_kept_once_and_never_in_the_log(opener: Opener, tmp_path: Path) -> None:
    one, other = opener(), opener()
    digest = hashlib.sha256(DER).hexdigest()
    sent = event(4, State.PROGRESS, step="escrow", evidence=envelope_evidence(DER, {"luks": "u"}))
    for store in (one, other, one):
        assert store.take(sent.line, token="", plan="") == {"accepted": 4, "acknowledged": digest}
    assert one.envelopes() == other.envelopes() == 1
    assert b"envelope" not in b"".join(one.lines_of("plan-1"))
    directory = tmp_path / "escrow"
    if one.database.shared:
        assert list(EscrowTable(one.database).export(directory)) != []
        assert list(EscrowTable(one.database).export(directory)) == []
    kept = directory / f"plan-1-{digest}.p7m"
    assert kept.read_bytes() == DER
    assert kept.stat().st_mode & 0o777 == 0o600


def test_all_servers_have_the_same_keys(opener: Opener) -> None:
    one, other = opener().database, opener().database
    assert one.key("tokens") == other.key("tokens") != one.key("sessions")
    assert len(one.key("tokens")) == 32


def test_a_database_that_is_down_is_asked_again_later(cluster: Postgres, tmp_path: Path) -> None:
    url = cluster.database()
    options = Options(database=Secret(url))
    with running(tmp_path, options=options) as at:
        told = Reporter("plan-1", "m", [HttpSink(f"{at}/v1/events")])
        with told.step("before"):
            pass
        cluster.stop()
        try:
            for number in range(20):
                with told.step(f"step-{number}"):
                    pass
            time.sleep(0.5)
        finally:
            cluster.start()
        told.final({})
        told.close(60)
    with contextlib.closing(Database.at(url)) as database:
        store = EventStore(tmp_path / "events", tmp_path, PlanStore(tmp_path), database=database)
        seqs = stored(store)
    # A batch may overtake the one that is tried again, so the order is not looked at here.
    assert sorted(seqs) == list(range(1, 44))


def test_a_server_hears_of_what_another_one_took(cluster: Postgres, tmp_path: Path) -> None:
    options = Options(database=Secret(cluster.database()))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        running(tmp_path / "a", options=options) as one,
        running(tmp_path / "b", options=options) as two,
    ):
        sent = requests.post(f"{one}/v1/events", event(1, step="image").line, timeout=30)
        assert sent.json() == {"accepted": 1}
        assert (
            requests.get(f"{two}/v1/events?plan=plan-1", timeout=30).content
            == event(1, step="image").line
        )
        with requests.get(f"{two}/v1/fleet/stream", stream=True, timeout=30) as stream:
            lines = stream.iter_lines()
            assert any(b"plan-1" in line for line in lines)
            requests.post(f"{one}/v1/events", event(2, step="later-step").line, timeout=30)
            assert any(b"later-step" in line for line in lines)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://x/y", "must be postgresql"),
        ("not a url", "is not a URL"),
        ("postgresql+psycopg://u:sesame@127.0.0.1:1/x", "127.0.0.1"),
        ("postgresql+psycopg://u:sesame@/x?host=/nowhere", "nowhere"),
    ],
)
def test_a_database_that_cannot_be_is_named_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(MachineError) as caught:
        Database.at(url)
    assert reason in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_tables_of_a_later_version_are_refused(opener: Opener, cluster: Postgres) -> None:
    store = opener()
    with store.database.writing(durable=True) as connection:
        connection.exec_driver_sql("UPDATE setting SET value = '99' WHERE name = 'schema'")
    with pytest.raises(MachineError, match="version 99, this server knows version 1"):
        opener()
