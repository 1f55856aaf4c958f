"""A machine's state to a file and back: QEMU's migration, with a file between the two ends."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from qemu.errors import RigError
from qemu.qmp import Qmp

_PATIENCE = 300.0
_UNLIMITED = 1 << 40


def write(qmp: Qmp, state: Path) -> None:
    """Stop the machine and write its state; it stays stopped. No NVMe drive may be in it."""
    qmp.execute("stop")
    qmp.execute("migrate-set-parameters", {"max-bandwidth": _UNLIMITED})
    qmp.execute("migrate", {"uri": f"exec:cat > {shlex.quote(str(state.resolve()))}"})
    _wait(qmp)


def read(qmp: Qmp, state: Path) -> None:
    """Load a state into a machine started for that (`-incoming defer`), and let it run."""
    qmp.execute("migrate-incoming", {"uri": f"exec:cat {shlex.quote(str(state.resolve()))}"})
    _wait(qmp)
    if qmp.execute("query-status")["status"] != "running":
        qmp.execute("cont")


def _wait(qmp: Qmp) -> None:
    deadline = time.monotonic() + _PATIENCE
    while (found := qmp.execute("query-migrate")).get("status") != "completed":
        if found.get("status") in ("failed", "cancelled") or time.monotonic() > deadline:
            raise RigError(f"the machine's state was not moved: {found}")
        time.sleep(0.05)
