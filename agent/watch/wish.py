"""Which rows are shown, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STATES = ("failed", "silent", "running", "waiting", "installed")
"""The most urgent first."""
Machine = Mapping[str, Any]
"""A row, as `GET /v1/fleet` has it."""

Key = Callable[[Machine], Any]
_LAST = float("inf")


def _high(name: str) -> Key:
    return lambda each: -(each.get(name) or 0)


SORTS: Mapping[str, Key] = {
    "state": lambda each: STATES.index(each["state"]),
    "name": lambda each: each["name"],
    "step": lambda each: (-each["finished"], each["step"]),
    "progress": _high("share"),
    "rate": _high("rate"),
    "eta": lambda each: each["eta"] or _LAST,
    "heard": _high("heard"),
    "mirror": lambda each: each["mirror"],
    "unlock": lambda each: each["unlock"],
    "seal": lambda each: each["seal"],
}


@dataclass(frozen=True)
class Wish:
    """What is to be shown and in which order; empty `states` are all of them."""

    sort: str = "state"
    reverse: bool = False
    words: tuple[str, ...] = ()
    states: frozenset[str] = frozenset()

    def chosen(self, machines: Iterable[Machine]) -> list[Machine]:
        """Return those that fit, in order."""
        fitting = sorted((each for each in machines if self._fits(each)), key=SORTS["name"])
        return sorted(fitting, key=SORTS[self.sort], reverse=self.reverse)

    def _fits(self, machine: Machine) -> bool:
        if self.states and machine["state"] not in self.states:
            return False
        named = ("name", "machine", "id", "state", "step", "message", "mirror", "unlock", "seal")
        text = " ".join(str(machine[key]) for key in named).lower()
        return all(word.lower() in text for word in self.words)
