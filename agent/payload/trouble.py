"""What can be wrong with a mirror, told apart by what to do next. Never leaves this package.

Trouble
├── Passing     broken, slow or busy: the same mirror may do better in a moment
│   └── Slow    it works, and another mirror would have been done long ago
├── Wrong       an answer that is not the image: the mirror is dropped if it goes on so
├── Unranged    sends the whole file whatever is asked: good for one connection, front to back
└── Corrupt     the bytes came and are not those that were signed
"""

from __future__ import annotations


class Trouble(Exception):  # noqa: N818
    """Something about one mirror, said in lower case without naming the mirror."""


class Passing(Trouble):
    """`rest` is how many seconds the mirror asked to be left alone (Retry-After), if it did."""

    def __init__(self, what: str, rest: float | None = None) -> None:
        super().__init__(what)
        self.rest = rest


class Slow(Passing):
    pass


class Wrong(Trouble):
    pass


class Unranged(Trouble):
    pass


class Corrupt(Trouble):
    pass
