"""Manifests as bytes: the one way to write them, the one strict way to read them.

What was signed is the bytes, so nothing here is lenient: an unknown key, a key given twice, a
number in quotes, a chunk that overlaps another are all named, together.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.errors import PlanError, Problem
from agent.payload.manifest import FAULTS_SHOWN, Chunk, Manifest

MAX_BYTES = 192 << 20
"""Longest manifest: 10^6 chunks, the most there may be, take 181 MB."""


def encode(manifest: Manifest) -> bytes:
    """Return the manifest's canonical bytes: what is published and signed.

    JSON in ASCII, one member of the outer object a line, one chunk a line, absent optional members
    left out, so that `diff` and `rsync` see the chunks that changed.
    """
    members = manifest.model_dump(mode="json", exclude={"chunks"}, exclude_none=True)
    lines = [f"{json.dumps(name)}: {_compact(value)}" for name, value in members.items()]
    chunks = ",\n".join(_chunk(chunk) for chunk in manifest.chunks)
    lines.append(f'"chunks": [\n{chunks}\n]')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")


def parse(document: bytes) -> Manifest:
    """Read a manifest; raise `PlanError` with every problem and its path in the document.

    The caller has checked the signature over exactly these bytes.
    """
    if len(document) > MAX_BYTES:
        raise _refused(f"has {len(document)} bytes, a manifest has at most {MAX_BYTES}")
    _no_key_twice(document)
    try:
        return Manifest.model_validate_json(document)
    except ValidationError as error:
        raise PlanError(list(_problems(error))) from None
    finally:
        _give_back()


def _give_back() -> None:
    """Let go of what parsing took, 0.4 kB a chunk, which the C library keeps for another time."""
    with suppress(AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _chunk(chunk: Chunk) -> str:
    marks = (',"zero":true' if chunk.zero else "") + (
        ',"continues":true' if chunk.continues else ""
    )
    return (
        f'{{"offset":{chunk.offset},"length":{chunk.length},"at":{chunk.at},'
        f'"stored":{chunk.stored},"sha256":"{chunk.sha256}"{marks}}}'
    )


def _refused(message: str) -> PlanError:
    return PlanError([Problem("manifest", message)])


def _no_key_twice(document: bytes) -> None:
    """Refuse what JSON readers disagree about: of a key given twice, which one counts."""

    def check(members: list[tuple[str, Any]]) -> None:
        keys = {key for key, _ in members}
        if len(keys) != len(members):
            twice = next(key for key in keys if sum(key == name for name, _ in members) > 1)
            raise _refused(f"has the key {json.dumps(twice[:64])} twice in one object")

    try:
        json.loads(document, object_pairs_hook=check)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200] if isinstance(error, ValueError) else "it is nested too deeply"
        raise _refused(f"is not JSON: {reason[:1].lower()}{reason[1:]}") from None


def _problems(error: ValidationError) -> Iterator[Problem]:
    for count, detail in enumerate(error.errors(include_url=False)):
        if count == FAULTS_SHOWN:
            yield Problem("manifest", f"has {error.error_count()} problems, the first are shown")
            return
        if detail["type"] == "faults":
            for where, message in detail["ctx"]["faults"]:
                yield Problem(where or "manifest", message)
        else:
            yield Problem(_path(detail["loc"]) or "manifest", _message(detail))


def _path(location: tuple[str | int, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _message(detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return "unknown key"
    if detail["type"] == "too_long":
        return f"is {_shown(detail['input'])}, must have at most {detail['ctx']['max_length']}"
    if detail["type"] == "too_short":
        return f"is {_shown(detail['input'])}, must have at least {detail['ctx']['min_length']}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message.replace("Input should", "must", 1)
    message = f"{message[:1].lower()}{message[1:]}"
    return f"is {_shown(detail['input'])}, {message}"


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
