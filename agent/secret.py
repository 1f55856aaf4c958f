"""Key material that cannot print itself.

A `Secret` shows as `Secret(…)` in every representation, cannot be pickled and compares in constant
time, so that a stray log line, event or traceback never carries a key.
"""

from __future__ import annotations

import hmac
import secrets
from typing import NoReturn


class Secret:
    """Text or bytes that must never be shown; `.value` is the only way in, and is bytes."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    @classmethod
    def random(cls) -> Secret:
        """Return 256 random bits as 64 hexadecimal digits.

        Text and not raw bytes, because `clevis luks bind -k -` reads one line and breaks at NUL.
        """
        return cls(secrets.token_hex(32))

    @classmethod
    def typeable(cls) -> Secret:
        """Return 256 random bits as eight groups of eight hexadecimal digits with dashes.

        For a key that somebody may have to read off a screen and type at a console; the dashes
        belong to it.
        """
        digits = secrets.token_hex(32)
        return cls("-".join(digits[i : i + 8] for i in range(0, 64, 8)))

    @property
    def value(self) -> bytes:
        return self._value

    @property
    def text(self) -> str:
        return self._value.decode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Secret:
        """Return the same object: it cannot change, and blivet copies whole trees of devices."""
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")
