"""A lab for booting: machines without a server, a Tang or a network that helps them.

`make boot` runs these; `make test` does not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.program import repository
from tests.boot.media import formed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.machine)


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Everything of this run alone: two may wait for each other's machines at the same time."""
    directory = repository() / "build/lab" / f"boot-{os.getpid()}"
    directory.mkdir(parents=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def lab(directory: Path) -> Iterator[Lab]:
    with Lab.fresh(directory / "lab") as lab:
        yield lab


@pytest.fixture(scope="session")
def rig(directory: Path) -> LiveImage:
    """The variant for virtual machines: quick, and without any USB driver."""
    return formed("rig", directory)


@pytest.fixture(scope="session")
def full(directory: Path) -> LiveImage:
    """The variant for real servers, which knows USB."""
    return formed("full", directory)
