"""The kernel command line, in words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence


def split(text: str) -> tuple[str, ...]:
    """Split as the kernel does: white space separates, double quotes keep it together."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.quotes = '"'
    lexer.escape = ""
    lexer.commenters = ""
    try:
        return tuple(lexer)
    except ValueError:  # an unclosed quote: the kernel takes it to the end
        return tuple(text.replace('"', "").split())


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and value of every option, in order; a word without = has the value ''."""
    for word in words:
        name, _, value = word.partition("=")
        yield name, value
