from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from ipaddress import ip_interface
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report.event import (
    LINE_LIMIT,
    Event,
    EventError,
    State,
    envelope_evidence,
    envelope_of,
)
from agent.report.evidence import fit, jsonable
from agent.secret import Secret
from tests.unit.report.receivers import event

NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
EVENTS = st.builds(
    Event,
    plan=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True) | st.just(""),
    machine=NAMES,
    run=NAMES,
    seq=st.integers(1, 2**53 - 1),
    time=st.floats(0, 1e10),
    step=NAMES.filter(bool),
    state=st.sampled_from(State),
    done=st.none() | st.integers(0, 2**53 - 1),
    total=st.none() | st.integers(0, 2**53 - 1),
    unit=st.sampled_from(["", "bytes", "volumes"]),
    rate=st.none() | st.floats(0, 1e12),
    message=st.text(max_size=60),
    evidence=st.dictionaries(st.text(max_size=8), JSON, max_size=4),
)


def document(**changes: object) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(event().line)
    return known | changes


def refusal(line: str) -> str | None:
    try:
        Event.from_json(line)
    except EventError as error:
        return str(error)
    return None


@settings(deadline=None)  # the machine may be busy
@given(EVENTS)
def test_every_event_is_one_line_that_parses_back_to_it(one: Event) -> None:
    assert one.line.endswith(b"\n")
    assert one.line.count(b"\n") == 1
    assert Event.from_json(one.line) == one


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=300) | st.text(max_size=300) | JSON.map(json.dumps))
def test_anything_else_is_refused_and_never_breaks_the_parser(line: bytes | str) -> None:
    with pytest.raises(EventError):
        Event.from_json(line)


@settings(deadline=None)  # the machine may be busy
@given(
    st.sampled_from([each.name for each in fields(Event)] + ["version", "other"]),
    JSON,
)
def test_a_field_of_any_json_value_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    reason = refusal(json.dumps(document(**{name: value})))
    assert reason is None or name in reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "version: must be 1"),
        ({"version": True}, "version: must be 1"),
        ({"stage": "x"}, "'stage': unknown key"),
        ({"plan": "../../etc/passwd"}, "plan: must be"),
        ({"plan": ".hidden"}, "plan: must be"),
        ({"plan": "a/b"}, "plan: must be"),
        ({"plan": "stream"}, "not stream"),
        ({"machine": "x\x1b[2J"}, "machine: must be"),
        ({"machine": "x" * 129}, "machine: must be"),
        ({"seq": 0}, "seq: must be"),
        ({"seq": True}, "seq: must be"),
        ({"seq": 1.0}, "seq: must be"),
        ({"seq": 2**53}, "seq: must be"),
        ({"time": -1}, "time: must be"),
        ({"time": "now"}, "time: must be"),
        ({"state": "done"}, "state: must be one of started, progress, finished, failed"),
        ({"state": ["started"]}, "state: must be one of"),
        ({"done": -1}, "done: must be"),
        ({"unit": "x" * 17}, "unit: must be"),
        ({"message": "x" * 4097}, "message: must have at most 4096"),
        ({"message": None}, "message: must be text"),
        ({"evidence": []}, "evidence: must be an object"),
        ({"evidence": {"a": 2**64}}, "evidence: a: an integer beyond 64 bits"),
    ],
)
def test_what_an_event_may_not_be_is_named(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(EventError) as caught:
        Event.from_json(json.dumps(document(**changes)))
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["plan", "machine", "seq", "time", "step", "state"])
def test_a_missing_field_is_named(name: str) -> None:
    lacking = document()
    del lacking[name]
    with pytest.raises(EventError, match=f"{name}: is missing"):
        Event.from_json(json.dumps(lacking))


def test_the_same_key_twice_is_refused() -> None:
    line = event().line.replace(b'"seq":1', b'"seq":1,"seq":2')
    with pytest.raises(EventError, match="same key twice"):
        Event.from_json(line)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_json_does_not_have_are_refused(number: str) -> None:
    line = event().line.replace(b'"seq":1', f'"seq":1,"rate":{number}'.encode())
    with pytest.raises(EventError):
        Event.from_json(line)


def test_deep_nesting_is_refused_and_not_recursed_into() -> None:
    nested = "[" * 100_000 + "]" * 100_000
    with pytest.raises(EventError):
        Event.from_json(event().line[:-2].decode() + f',"evidence":{{"a":{nested}}}}}')


def test_an_event_longer_than_the_limit_cannot_be_made_nor_read() -> None:
    with pytest.raises(EventError, match=f"the limit is {LINE_LIMIT}"):
        event(evidence={"log": "x" * LINE_LIMIT})
    with pytest.raises(EventError, match="longer than"):
        Event.from_json(b" " * (LINE_LIMIT + 1))


@dataclass
class Slot:
    number: int
    key: Secret


SECRET = Secret("do not show")


@pytest.mark.parametrize(
    "evidence",
    [
        {"key": SECRET},
        {"slots": [{"n": 1}, {"key": SECRET}]},
        {"slot": Slot(1, SECRET)},
        {"pair": (1, {SECRET})},
        {SECRET: 1},
        {"deep": {SECRET: 1}},
    ],
)
def test_a_secret_anywhere_in_the_evidence_raises(evidence: dict[Any, Any]) -> None:
    with pytest.raises(TypeError) as caught:
        event(evidence=evidence)
    assert "Secret" in str(caught.value)
    assert "do not show" not in str(caught.value)


def test_raw_bytes_are_no_evidence() -> None:
    with pytest.raises(TypeError, match=r"keys\[1\]: a bytes"):
        jsonable({"keys": ["a", b"raw"]})


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Disk:
    path: Path
    uuid: UUID


def test_evidence_of_the_usual_types_becomes_plain_json() -> None:
    evidence = jsonable(
        {
            "disk": Disk(Path("/dev/vda"), UUID(int=1)),
            "colour": Colour.RED,
            "when": datetime(2026, 11, 22, tzinfo=UTC),
            "address": ip_interface("10.0.0.5/24"),
            "names": {"b", "a"},
            "pair": (1, None),
        }
    )
    assert evidence == {
        "disk": {"path": "/dev/vda", "uuid": "00000000-0000-0000-0000-000000000001"},
        "colour": "red",
        "when": "2026-11-22T00:00:00+00:00",
        "address": "10.0.0.5/24",
        "names": ["a", "b"],
        "pair": [1, None],
    }


def test_changing_what_was_given_as_evidence_does_not_change_the_event() -> None:
    slots = [1]
    one = event(evidence={"slots": slots})
    slots.append(2)
    assert one.evidence == {"slots": [1]}


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=400), max_size=8))
def test_evidence_that_is_too_long_loses_its_longest_parts_only(evidence: dict[str, str]) -> None:
    kept = fit(evidence, 600)
    left_out = kept.pop("left_out", []) if kept != evidence else []
    assert isinstance(left_out, list)
    assert all(evidence[key] == value for key, value in kept.items())
    assert kept.keys() | set(left_out) == evidence.keys()
    assert len(json.dumps(kept)) < 6 * 600
    if kept and left_out:
        shortest = min(len(str(evidence[str(key)])) for key in left_out)
        assert shortest + 12 >= max(
            len(value) for value in evidence.values() if value in kept.values()
        )


def test_an_envelope_survives_its_event() -> None:
    envelope = b"\x30\x03\x02\x01\x05"
    sent = event(step="escrow", evidence=envelope_evidence(envelope, {"luks": UUID(int=2)}))
    assert envelope_of(Event.from_json(sent.line)) == (
        envelope,
        hashlib.sha256(envelope).hexdigest(),
    )
    assert sent.evidence["luks"] == "00000000-0000-0000-0000-000000000002"


def test_an_envelope_is_never_progress_that_may_be_dropped() -> None:
    evidence = envelope_evidence(b"\x30\x00", {})
    assert not event(step="escrow", state=State.PROGRESS, evidence=evidence).is_progress
    assert event(step="escrow", state=State.PROGRESS).is_progress


@pytest.mark.parametrize(
    "evidence",
    [
        {"envelope": "not base64!"},
        {"envelope": 5},
        {"envelope": base64.b64encode(b"-----BEGIN CMS-----").decode()},
        {"envelope": ""},
        {"envelope": base64.b64encode(b"\x30\x00").decode(), "sha256": "00" * 32},
    ],
)
def test_an_envelope_that_is_damaged_is_refused(evidence: dict[str, Any]) -> None:
    with pytest.raises(EventError, match="evidence"):
        envelope_of(event(step="escrow", evidence=evidence))


def test_other_events_hold_no_envelope() -> None:
    assert envelope_of(event()) is None
    assert envelope_of(event(evidence={"envelope": "MAA="})) is None
