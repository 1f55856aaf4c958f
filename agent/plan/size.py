"""Sizes: "20 GiB" and "40%" in the plan's text and in messages, bytes everywhere else."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from agent.plan.part import Kind, shown

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
# Binary before decimal: where both are as short, messages use the binary one.
UNITS = {
    "B": 1,
    "KiB": KiB,
    "MiB": MiB,
    "GiB": GiB,
    "TiB": TiB,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
LARGEST = 1 << 60  # 1 EiB; what exceeds it is a slip of the pen, and 64-bit arithmetic stays exact

NUMBER = r"[0-9]{1,19}(?:\.[0-9]{1,9})?"
BYTES = rf"({NUMBER}) ?(B|[KMGT]iB|[kMGT]B)"
_BYTES = re.compile(BYTES)
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,2})?) ?%")
_CONDITION = re.compile(r"(<=|>=|<|>|==?)? *(.*)")

EXAMPLES = 'write it as "20 GiB", "500 GB" or a number of bytes'
EXAMPLES_WITH_PERCENT = 'write it as "20 GiB", "500 GB", "40%" or a number of bytes'


@dataclass(frozen=True, order=True)
class Percent:
    """A share of the space that the volumes have together; 0 < points <= 100."""

    points: Decimal

    def __post_init__(self) -> None:
        if not 0 < self.points <= 100:
            raise ValueError(f"{self} is not a share: it must be above 0% and at most 100%")

    def of(self, total: int) -> int:
        """Return this share of `total` bytes, rounded down to a whole byte."""
        return int(total * self.points / 100)

    def __str__(self) -> str:
        text = f"{self.points:f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"


@dataclass(frozen=True)
class SizeCondition:
    """A comparison with a size in bytes, such as `>= 400 GB`."""

    operator: str
    bytes: int

    def holds(self, size: int) -> bool:
        """Tell whether `size` in bytes meets the condition."""
        return _COMPARE[self.operator](size, self.bytes)

    def __str__(self) -> str:
        return f"{self.operator} {render(self.bytes)}"


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def parse_bytes(value: object) -> int:
    """Return the bytes of "20 GiB", "1.5 TB" or 21474836480; raise ValueError with what is right.

    A fraction must come to whole bytes.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return _within_reason(value, str(value))
    match = _BYTES.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a size: {EXAMPLES}")
    number = Decimal(match[1]) * UNITS[match[2]]
    if number != number.to_integral_value():
        raise ValueError(f"{shown(value)} is not a whole number of bytes")
    return _within_reason(int(number), match[0])


def parse_size(value: object) -> int | Percent:
    """Return bytes, or a `Percent` for "40%"; raise ValueError with what would be right."""
    if isinstance(value, Percent):
        return value
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        return Percent(Decimal(match[1]))
    if isinstance(value, str) and not _BYTES.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a size: {EXAMPLES_WITH_PERCENT}")
    return parse_bytes(value)


def parse_condition(value: object) -> SizeCondition:
    """Return the condition of ">= 400 GB"; raise ValueError with what would be right."""
    if isinstance(value, SizeCondition):
        return value
    match = _CONDITION.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] is None:
        raise ValueError(f'{shown(value)} is not a condition: write it as ">= 400 GB" or "< 2 TB"')
    return SizeCondition("==" if match[1] == "=" else match[1], parse_bytes(match[2]))


def render(size: int | Percent) -> str:
    """Return the shortest text of exactly this size: "20 GiB", "400 GB", "40%", "1000001 B"."""
    if isinstance(size, Percent):
        return str(size)
    exact = [(size // factor, unit) for unit, factor in UNITS.items() if size % factor == 0]
    number, unit = min(exact, key=lambda pair: len(str(pair[0])))
    return f"{number} {unit}"


def about(size: int) -> str:
    """Return a size for people, in binary units with at most two decimals: "29.8 GiB"."""
    unit = next((unit for unit in ("TiB", "GiB", "MiB", "KiB") if size >= UNITS[unit]), "B")
    return f"{size / UNITS[unit]:.2f}".rstrip("0").rstrip(".") + f" {unit}"


def _within_reason(size: int, text: str) -> int:
    if not 0 < size <= LARGEST:
        raise ValueError(f"{text} is not a size: it must be above 0 and at most {render(LARGEST)}")
    return size


_BYTES_SCHEMA: list[dict[str, object]] = [
    {"type": "integer", "minimum": 1},
    {"type": "string", "pattern": f"^{BYTES}$"},
]
Bytes = Annotated[
    int,
    Kind("size"),
    PlainValidator(parse_bytes),
    PlainSerializer(render),
    WithJsonSchema({"anyOf": _BYTES_SCHEMA}),
]
Size = Annotated[
    int | Percent,
    Kind("size"),
    PlainValidator(parse_size),
    PlainSerializer(render),
    WithJsonSchema(
        {
            "anyOf": [*_BYTES_SCHEMA, {"type": "string", "pattern": f"^{_PERCENT.pattern}$"}],
            "examples": ["20 GiB", "40%"],
        }
    ),
]
Condition = Annotated[
    SizeCondition,
    Kind("comparison with a size"),
    PlainValidator(parse_condition),
    PlainSerializer(str),
    WithJsonSchema(
        {"type": "string", "pattern": f"^(<=|>=|<|>|==?) *{BYTES}$", "examples": [">= 400 GB"]}
    ),
]
