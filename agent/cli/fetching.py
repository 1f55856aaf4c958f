"""How the commands of an operator fetch: with somebody waiting at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from agent.cli.environment import proxies
from agent.oci.registries import Registries
from agent.payload.options import FetchOptions

PATIENCE = 60.0
"""Seconds of trying before a command gives up. A machine being installed, with nobody there, has
more."""
FIRST = 10.0
"""Seconds of trying to reach a server at all: most often its address is wrong."""


def fetching(
    ca: Path | None, registries: Registries | None = None, patience: float = PATIENCE
) -> FetchOptions:
    """Return how to fetch; `ca` are authorities (PEM) to trust instead of the system's."""
    return FetchOptions(
        patience=patience,
        ca=ca.read_text() if ca else None,
        registry=registries or Registries(),
        proxies=proxies(),
        warn=warner(),
    )


def warner() -> Callable[[str], None]:
    """Return what tells a person of a mishap; the same one is told once, however often it comes."""
    told: set[str] = set()

    def warn(message: str) -> None:
        if message not in told:
            told.add(message)
            # Not by click, which would write into the middle of a progress bar.
            sys.stderr.write(f"bedplate: warning: {message}\n")
            sys.stderr.flush()

    return warn
