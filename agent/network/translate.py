"""From the kernel command line to networkd's files, and to what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.errors import Problem
from agent.network import discovery
from agent.network.files import written
from agent.network.wished import read
from agent.network.words import split


@dataclass(frozen=True)
class Translated:
    """Files by name, options that were not understood, and the cards that are meant by name."""

    files: Mapping[str, str]
    problems: tuple[Problem, ...]
    interfaces: frozenset[str]

    def doubts(self, cards: Mapping[str, str]) -> Iterator[Problem]:
        """Yield what may be why there is no network; `cards` are this machine's, name to MAC."""
        yield from self.problems
        there = ", ".join(f"{name} ({mac})" for name, mac in cards.items()) or "none"
        for name in sorted(self.interfaces - cards.keys()):
            message = f"{name}: there is no such network card; there are {there}"
            yield Problem("kernel command line", message)


def translate(text: str) -> Translated:
    """Translate a kernel command line. Pure."""
    words = split(text)
    wished = read(words)
    discovery.add(words, wished)
    files = written(wished)  # which finds wrong bond options too
    return Translated(files, tuple(wished.problems), frozenset(wished.interfaces()))
