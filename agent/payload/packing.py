"""How to pack: the options that trees and disks share, checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from agent.errors import PlanError, Problem
from agent.payload.manifest import CHUNK_SIZE, CHUNK_SIZES, NAME, Payload

LEVEL = 9
"""Measured in docs/image-format.md: higher levels cost far more time than they save bytes."""
LEVELS = range(1, 23)


@dataclass(frozen=True)
class PackOptions:
    """How to pack.

    `workers` is the number of threads that compress, 0 for one on each core. `created` is by
    default the newest member's time, so that builds reproduce. `urls` say where the payload will
    lie, if not beside the manifest.

    `previous` is the manifest of an older image: unchanged chunks get the same bytes again, and
    `chunk_size` is that image's. An `overlay` is laid over another tree, so its members stay in
    their order; None takes an archive without os-release for one.
    """

    level: int = LEVEL
    chunk_size: int = CHUNK_SIZE
    workers: int = 0
    created: datetime | None = None
    urls: tuple[str, ...] = ()
    previous: Path | None = None
    overlay: bool | None = None


def check(name: str, options: PackOptions) -> None:
    """Raise `PlanError` with everything that is wrong with an image's name and options."""
    problems = list(_problems(name, options))
    if problems:
        raise PlanError(problems)


def _problems(name: str, options: PackOptions) -> Iterator[Problem]:
    if not NAME.fullmatch(name):
        yield Problem("name", f"is {name!r}, must be letters, digits, . _ + or -, at most 128")
    if options.level not in LEVELS:
        yield Problem("level", f"is {options.level}, zstd has 1 to {LEVELS.stop - 1}")
    if options.chunk_size not in CHUNK_SIZES:
        limits = f"from {CHUNK_SIZES.start} to {CHUNK_SIZES.stop - 1}"
        message = f"is {options.chunk_size}, must be a multiple of {CHUNK_SIZES.step} {limits}"
        yield Problem("chunk_size", message)
    for number, url in enumerate(options.urls):
        try:
            Payload(urls=(url,), size=0)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            yield Problem(f"urls[{number}]", f"is {url!r}, {message}")
    if options.created and options.created.tzinfo is not UTC:
        yield Problem("created", f"is {options.created}, must be in UTC")
