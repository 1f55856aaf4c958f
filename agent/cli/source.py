"""What `bedplate pack` is given: `-`, a file, a directory, a device, or an image of a registry."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from agent.adapters.command import reading
from agent.cli.fetching import fetching
from agent.errors import ImageError, PlanError, Problem
from agent.oci.pull import pulled_layers
from agent.payload.options import FetchOptions
from agent.payload.sources.oci import Platform
from agent.payload.sources.opening import Source, Wish, container, opened, streamed
from agent.reference import Reference

_SCHEMES = ("docker://", "oci://", "oci+http://")


def existing(context: click.Context, parameter: click.Parameter, text: str) -> str:
    """Return a source that is there; another is wrong usage. A registry is asked later."""
    if text != "-" and not text.startswith(_SCHEMES) and not Path(text).exists():
        raise click.BadParameter(f"{text!r} does not exist", context, parameter)
    return text


def open_source(text: str, wish: Wish, ca: Path | None) -> AbstractContextManager[Source]:
    """Open what was given as SOURCE; `PlanError` if it cannot be packed.

    `ca` is a file of authorities (PEM) to trust for a registry instead of the system's.
    """
    if text == "-":
        return streamed(sys.stdin.buffer, wish)
    if text.startswith(_SCHEMES):
        return _pulled(text, wish, fetching(ca))
    return opened(Path(text), wish, reading)


@contextmanager
def _pulled(text: str, wish: Wish, options: FetchOptions) -> Iterator[BinaryIO]:
    if wish.kind == "disk":
        raise PlanError([Problem(text, "is a container image, which makes a tree, not a disk")])
    try:
        docker = text.startswith(_SCHEMES[0])
        reference = Reference.parse_docker(text) if docker else Reference.parse(text)
    except ValueError as error:
        raise PlanError([Problem("source", str(error))]) from None
    try:
        layers = pulled_layers(reference, wish.platform or Platform.here(), options)
        with container(text, layers) as stream:
            yield stream
    except ImageError as error:  # nothing was touched: it is only being packed
        raise PlanError([Problem("", str(error))]) from None
