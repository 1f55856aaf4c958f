"""What the build says: one line per step, one error with what would help."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class BuildError(Exception):
    """The build cannot go on; the message says what is wrong and what would help."""


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Announce a step that takes long, and its seconds once it is done."""
    say(f"{what} ...")
    start = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - start:.0f} s")
