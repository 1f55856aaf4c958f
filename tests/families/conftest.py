"""Targets of other families: slow, because each builds its own initrd under emulation.

`make families` runs them; `make test` does not.
"""

from __future__ import annotations

from tests.machine.conftest import site

__all__ = ["site"]
