"""What a registry that answered 401 asks for: the WWW-Authenticate header (RFC 9110 §11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # token of RFC 9110 §5.6.2
_SCHEME = re.compile(rf"\s*({_TOKEN})(?=[\s,]|$)")
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')


@dataclass(frozen=True)
class Challenge:
    """One way to be let in; `scheme` and the keys of `parameters` are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def challenges(header: str) -> tuple[Challenge, ...]:
    """Return the challenges in their order; what cannot be read ends the list."""
    return tuple(_challenges(header[:8192]))


def _challenges(text: str) -> Iterator[Challenge]:
    while match := _SCHEME.match(text):
        text = text[match.end() :]
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(text):
            value = found[3] if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
            parameters.setdefault(found[1].lower(), value)
            text = text[found.end() :]
        yield Challenge(match[1].lower(), parameters)
        text = text.lstrip(" ,")
