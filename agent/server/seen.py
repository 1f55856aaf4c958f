"""Which numbers were seen, in memory that grows with the gaps and not with the numbers."""

from __future__ import annotations

from bisect import bisect_right

GAPS_LIMIT = 5000


class Seen:
    """A set of integers kept as half-open ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    @property
    def full(self) -> bool:
        """True when there are so many gaps that this cannot be an honest sender."""
        return len(self._starts) >= GAPS_LIMIT

    def add(self, number: int) -> None:
        """Add a number; adding it again changes nothing."""
        if number in self:
            return
        at = bisect_right(self._starts, number)
        joins_before = at > 0 and self._ends[at - 1] == number
        joins_after = at < len(self._starts) and self._starts[at] == number + 1
        if joins_before and joins_after:
            self._ends[at - 1] = self._ends.pop(at)
            del self._starts[at]
        elif joins_before:
            self._ends[at - 1] = number + 1
        elif joins_after:
            self._starts[at] = number
        else:
            self._starts.insert(at, number)
            self._ends.insert(at, number + 1)
