"""What every part of the plan has in common, and how a validator says what is wrong.

Messages of validators are whole: object first, the value that is there, what would be right. The
path and the line are added by `agent.plan.problem`.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

NOT_YET = "is not supported yet by this version"
Path = tuple[str | int, ...]
T = TypeVar("T")


class Fault(NamedTuple):
    """What is wrong between two fields of a part; `path` is relative to the part."""

    path: Path
    message: str


class Part(BaseModel):
    """A frozen piece of the plan that refuses keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    # Keys of a later version: refused by name, so that an operator knows the spelling was right.
    later: ClassVar[frozenset[str]] = frozenset()
    # The part as YAML, for the manual and for the test that reads it back.
    example: ClassVar[str] = ""

    def checks(self) -> Iterable[Iterable[Fault]]:
        """Return what is wrong between fields that are each right, as lazy groups.

        Each group reads few fields, so that the others still speak when a field is wrong.
        """
        return ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        faults = tuple(itertools.chain.from_iterable(self.checks()))
        if faults:
            text = "; ".join(fault.message for fault in faults)
            raise PydanticCustomError("faults", "{text}", {"text": text, "faults": faults})
        return self


@dataclass(frozen=True)
class Kind:
    """How the manual names a kind of text or number; says nothing to pydantic."""

    words: str


class OneOrMany:
    """Says in the JSON Schema that a single value may stand for a list of one."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core_schema)
        return {"anyOf": [schema["items"], schema]}


def shown(value: object) -> str:
    """Return a value as a message quotes it: JSON-like, short."""
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "…"
        return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    return kind_of(value)


def kind_of(value: object) -> str:
    """Name the kind of a YAML value: "a list", "a number"."""
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "a true/false value"),
        ((int, float), "a number"),
        (str, "text"),
        (dict, "a mapping"),
        ((list, tuple), "a list"),
        (type(None), "empty"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "something else")


def text_required() -> PydanticCustomError:
    """Return the error for a value that is not text, the same that pydantic raises."""
    return PydanticCustomError("string_type", "must be text")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ': did you mean X?' for the known name most like `name`, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f": did you mean {match[0]}?" if match else ""


def one_of(now: tuple[Any, ...], later: tuple[Any, ...] = ()) -> BeforeValidator:
    """Return a validator that takes a value in `now` and refuses one in `later` by name."""
    words = all(isinstance(name, str) for name in now)
    names = [name if isinstance(name, str) else shown(name) for name in now]

    def check(value: object) -> object:
        if words and not isinstance(value, str):
            raise text_required()
        if any(value == name and type(value) is type(name) for name in now):
            return value
        if value in later:
            raise ValueError(f"{shown(value)} {NOT_YET}: use {' or '.join(names)}")
        hint = nearest(value, names) if isinstance(value, str) else ""
        raise ValueError(f"{shown(value)} is not one of {', '.join(names)}{hint}")

    return BeforeValidator(check)


def from_text(kind: type[T], parse: Callable[[str], T]) -> Callable[[object], T]:
    """Return a validator that takes a `kind` as it is and parses text into one."""

    def validate(value: object) -> T:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise text_required()
        return parse(value)

    return validate


def listed(value: object) -> object:
    """Turn a single value into a list of one, so that a plan may leave out the brackets."""
    return value if isinstance(value, (list, tuple, dict)) else (value,)
