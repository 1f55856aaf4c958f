"""One thing that happened, as one line of JSON: the public format of docs/events.md.

An `Event` that exists is valid: bounded in size, free of secrets, and equal to what its own line
parses to. `Event.from_json` accepts nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, NoReturn

from agent.report.evidence import Json, jsonable

VERSION = 1
LINE_LIMIT = 256 * 1024
"""Bytes of one event as JSON, its newline included."""
MESSAGE_LIMIT = 4096
NAME_LIMIT = 128
UNIT_LIMIT = 16
ENVELOPE_LIMIT = 64 * 1024
"""Bytes of an escrow envelope (DER)."""
COUNT_LIMIT = 2**53
"""Above this a JSON reader that knows only doubles would round (RFC 8259 §6)."""

RUN_STEP = "install"
"""The step name of the run itself: its first event announces the steps, its last is the report."""
ESCROW_STEP = "escrow"

# A plan's id names files at receivers, so it holds nothing a path could mean something by. Beside
# /v1/fleet/ID the server has /v1/fleet/stream.
PLAN_ID = re.compile(r"(?!stream$)[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")


class EventError(ValueError):
    """This is not an event; the message says which field and why."""


class State(StrEnum):
    STARTED = "started"
    PROGRESS = "progress"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened to one step of one run on one machine.

    `plan` is empty until the plan is known, `run` tells two runs of one plan apart, `seq` counts
    from 1 in each run, `time` is in Unix seconds, `rate` in units per second. `message` is the
    step's title when it starts and the reason when it fails. `evidence` may hold anything
    `evidence.jsonable` takes; a `Secret` anywhere in it raises `TypeError`.
    """

    plan: str
    machine: str
    seq: int
    time: float
    step: str
    state: State
    run: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    rate: float | None = None
    message: str = ""
    evidence: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_plan(self.plan)
        for name in ("machine", "run", "step", "unit"):
            _check_name(name, getattr(self, name), UNIT_LIMIT if name == "unit" else NAME_LIMIT)
        if not self.step:
            raise EventError("step: must not be empty")
        _check_type("state", self.state, State, f"one of {', '.join(State)}")
        _check_count("seq", self.seq, least=1)
        for name in ("done", "total"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), least=0)
        _check_number("time", self.time)
        if self.rate is not None:
            _check_number("rate", self.rate)
        _check_type("message", self.message, str, "text")
        if len(self.message) > MESSAGE_LIMIT:
            raise EventError(f"message: must have at most {MESSAGE_LIMIT} characters")
        _check_type("evidence", self.evidence, Mapping, "an object")
        object.__setattr__(self, "evidence", jsonable(self.evidence))
        if len(self.line) > LINE_LIMIT:
            raise EventError(f"event: is {len(self.line)} bytes long, the limit is {LINE_LIMIT}")

    @cached_property
    def line(self) -> bytes:
        """The event as a line of UTF-8 JSON; optional fields without a value are left out."""
        document: dict[str, Any] = {"version": VERSION}
        for name in _FIELDS:
            value = getattr(self, name)
            if name in _REQUIRED or (value is not None and value != "" and value != {}):
                document[name] = value
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # A lone surrogate becomes \udXXX, which is just how JSON spells it.
        return text.encode("utf-8", "backslashreplace") + b"\n"

    @classmethod
    def from_json(cls, line: bytes | str) -> Event:
        """Parse one line; raise `EventError` unless it is exactly an event of this version."""
        if len(line) > LINE_LIMIT:
            raise EventError(f"event: is longer than {LINE_LIMIT} bytes")
        try:
            # Decoded here, because json.loads would guess UTF-16 and UTF-32 from bytes.
            text = line.decode("utf-8") if isinstance(line, bytes) else line
            document = json.loads(
                text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
            )
        except EventError:
            raise
        except (ValueError, RecursionError) as error:
            raise EventError(f"event: is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise EventError("event: must be a JSON object")
        return cls._from_document(document)

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Event:
        version = document.pop("version", None)
        if version != VERSION or isinstance(version, bool):
            raise EventError(f"version: must be {VERSION}")
        for name in document:
            if name not in _FIELDS:
                raise EventError(f"{name[:NAME_LIMIT]!r}: unknown key")
        for name in _REQUIRED:
            if name not in document:
                raise EventError(f"{name}: is missing")
        if document["state"] in State.__members__.values():
            document["state"] = State(document["state"])
        try:
            return cls(**document)
        except TypeError as error:
            raise EventError(f"evidence: {error}") from None

    @property
    def is_progress(self) -> bool:
        """True for what may be lost: progress, but never an escrow envelope."""
        return self.state is State.PROGRESS and "envelope" not in self.evidence

    @property
    def is_last(self) -> bool:
        """True for the event that ends the run and carries the install report."""
        return self.step == RUN_STEP and self.state in (State.FINISHED, State.FAILED)


def envelope_evidence(envelope: bytes, about: Mapping[str, object]) -> dict[str, Json]:
    """Return the evidence of an escrow event: base64 of the DER bytes, sha256, and `about`."""
    if not 0 < len(envelope) <= ENVELOPE_LIMIT:
        raise EventError(
            f"envelope: must be 1 to {ENVELOPE_LIMIT} bytes, this one has {len(envelope)}"
        )
    return {
        **jsonable(about),
        "envelope": base64.b64encode(envelope).decode("ascii"),
        "sha256": hashlib.sha256(envelope).hexdigest(),
    }


def envelope_of(event: Event) -> tuple[bytes, str] | None:
    """Return (DER bytes, their sha256 in hexadecimal) of an escrow event; None for any other.

    Raises `EventError` when the envelope is not base64 or not what the event says it hashes to.
    """
    text = event.evidence.get("envelope")
    if event.step != ESCROW_STEP or text is None:
        return None
    try:
        envelope = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        envelope = b""
    # A CMS ContentInfo is a DER SEQUENCE (RFC 5652 §3): PEM or an empty file is a mistake.
    if not envelope.startswith(b"\x30") or len(envelope) > ENVELOPE_LIMIT:
        raise EventError(
            f"evidence.envelope: must be base64 of at most {ENVELOPE_LIMIT} bytes of DER"
        )
    digest = hashlib.sha256(envelope).hexdigest()
    said = event.evidence.get("sha256", digest)
    if said != digest:
        raise EventError(f"evidence.sha256: is {said!r:.80}, the envelope's is {digest}")
    return envelope, digest


_FIELDS = tuple(each.name for each in fields(Event))
_REQUIRED = ("plan", "machine", "seq", "time", "step", "state")


def _check_type(name: str, value: object, wanted: type, spoken: str) -> None:
    if not isinstance(value, wanted):
        raise EventError(f"{name}: must be {spoken}")


def _check_plan(plan: object) -> None:
    if not isinstance(plan, str) or (plan and not PLAN_ID.fullmatch(plan)):
        raise EventError(
            "plan: must be 1 to 128 letters, digits, dots, dashes or underscores, not stream"
        )


def _check_name(name: str, value: object, limit: int) -> None:
    if not isinstance(value, str) or len(value) > limit or not _NAME.fullmatch(value):
        raise EventError(f"{name}: must be at most {limit} characters without control characters")


def _check_count(name: str, value: object, least: int) -> None:
    if type(value) is not int or not least <= value < COUNT_LIMIT:
        raise EventError(f"{name}: must be an integer from {least} to 2^53 - 1")


def _check_number(name: str, value: object) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if not 0 <= number < COUNT_LIMIT:  # false for NaN too
        raise EventError(f"{name}: must be a finite number, not negative")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise EventError("event: has the same key twice")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise EventError(f"event: {name} is not JSON")
