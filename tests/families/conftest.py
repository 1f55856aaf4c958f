"""Targets of other families: slow, because packages and initrds are made under emulation.

`make families` builds their images and runs them; `make test` does not.
"""

from __future__ import annotations

from tests.machine.conftest import site

__all__ = ["site"]
