"""What `bedplate pack` is given: `-`, a file, a directory or a device."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

import click

from agent.adapters.command import reading
from agent.payload.sources.opening import Source, Wish, opened, streamed


def existing(context: click.Context, parameter: click.Parameter, text: str) -> str:
    """Return a source that is there; another is wrong usage."""
    if text != "-" and not Path(text).exists():
        raise click.BadParameter(f"{text!r} does not exist", context, parameter)
    return text


def open_source(text: str, wish: Wish) -> AbstractContextManager[Source]:
    """Open what was given as SOURCE; `PlanError` if it cannot be packed."""
    if text == "-":
        return streamed(sys.stdin.buffer, wish)
    return opened(Path(text), wish, reading)
