"""Evidence as plain JSON: what a step can show for itself, copied, bounded, and free of secrets."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import json
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

DEPTH_LIMIT = 16
_SHOWN_AS_TEXT = (
    uuid.UUID,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)


def jsonable(value: Mapping[str, object]) -> dict[str, Json]:
    """Return a deep copy made of JSON types only.

    Dataclasses become objects, sequences and sets arrays, enumerations their value, paths, UUIDs,
    addresses and dates text. A `Secret`, bytes or anything unknown raises `TypeError` with its
    place; so do nesting deeper than 16 and numbers JSON has not.
    """
    return {_key(key, ""): _copy(item, str(key), 1) for key, item in value.items()}


def fit(evidence: Mapping[str, Json], limit: int) -> dict[str, Json]:
    """Return the evidence without its largest entries until its JSON has at most `limit` bytes.

    What was left out is named under `left_out`: a report that is too long loses its longest part,
    never the whole.
    """
    kept = dict(evidence)
    left_out: list[Json] = []
    while kept and _size(kept) > limit - _size(left_out):
        largest = max(kept, key=lambda key: _size(kept[key]))
        del kept[largest]
        left_out.append(largest[:80])
    return {**kept, "left_out": left_out} if left_out else kept


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def _key(key: object, place: str) -> str:
    if not isinstance(key, str | int | uuid.UUID | os.PathLike):
        raise TypeError(f"{place or 'evidence'}: a {type(key).__name__} cannot be a key")
    return str(key.value) if isinstance(key, Enum) else str(key)


def _copy(value: object, place: str, depth: int) -> Json:
    if depth > DEPTH_LIMIT:
        raise TypeError(f"{place[:200]}: is nested deeper than {DEPTH_LIMIT}")
    if isinstance(value, Enum):
        return _copy(value.value, place, depth)
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if abs(value) >= 2**63:
            raise TypeError(f"{place}: an integer beyond 64 bits must be text")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{place}: {value} is not a JSON number")
        return value
    if isinstance(value, _SHOWN_AS_TEXT):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, datetime.date):  # a datetime is one too
        return value.isoformat()
    return _copy_compound(value, place, depth)


def _copy_compound(value: object, place: str, depth: int) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not asdict(): it would deep-copy what it does not know, a Secret among it.
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {
            _key(key, place): _copy(item, f"{place}.{key}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, AbstractSet):
        value = sorted(value, key=str)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_copy(item, f"{place}[{at}]", depth + 1) for at, item in enumerate(value)]
    raise TypeError(f"{place}: a {type(value).__name__} must not go into an event")
