"""What the sources ask of whoever opens them, and how they refuse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Protocol

from agent.errors import CommandError, PlanError, Problem

_PACKAGES = {
    "tar": "tar",
    "sqfs2tar": "squashfs-tools-ng",
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "unshare": "util-linux",
}
"""Debian's packages of the programs that sources need."""


class Reading(Protocol):
    """Run a program and read its stdout: `agent.adapters.command.reading`."""

    def __call__(
        self, *argv: str | os.PathLike[str], pipe_size: int = ...
    ) -> AbstractContextManager[IO[bytes]]: ...


def refused(where: str, message: str) -> PlanError:
    """Return the error for a source that cannot be taken."""
    return PlanError([Problem(where, message)])


@contextmanager
def run_for(where: str) -> Iterator[None]:
    """Let a program's failure out as a refusal of the source `where`: nothing was touched."""
    try:
        yield
    except CommandError as error:
        program = error.argv[0]
        if error.what == "is not installed":
            package = _PACKAGES.get(program, program)
            message = f"needs {program}, which is not installed (Debian's package: {package})"
        else:
            message = f"{program} {error.what}" + (f": {error.stderr}" if error.stderr else "")
        raise refused(where, message) from None
