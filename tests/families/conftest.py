"""Targets of other families: slow, because packages and initrds are made under emulation.

`make families` builds their images and runs them; `make test` does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qemu.lab import Lab
from qemu.program import repository
from qemu.site import Site


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A lab of its own: `make test` may run meanwhile, and begins by emptying its own."""
    with Lab.fresh(repository() / "build/lab/families") as lab:
        yield Site(lab)
