"""The operator's command, `bedplate redfish`, as the tests of booting run it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qemu.redfish import Setting
from qemu.site import Site

INSTALL = 3 * 3600
"""Seconds, with the wait for other machines of this host: one is switched on at a time."""


def command(
    verb: str, bmc: str, setting: Setting, *options: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run one of the commands to its end; the password goes by stdin."""
    argv = [
        sys.executable, "-m", "agent", "redfish", verb,
        "--bmc", bmc, "--user", setting.user, "--password-file", "-", *map(str, options),
    ]  # fmt: skip
    return subprocess.run(
        argv, input=setting.password, capture_output=True, text=True, timeout=2 * INSTALL,
        check=False, env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
    )  # fmt: skip


def install(
    bmc: str, setting: Setting, iso: Path, site: Site, order: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """Install by an image that the command serves, and hear from the site's server how it goes.

    What was said is kept in the lab.
    """
    done = command(
        "install", bmc, setting, "--wait", "--iso", iso, "--serve", "127.0.0.1", "--interval", "1",
        "--server", site.server.local_url, "--plan", order, *more,
    )  # fmt: skip
    (site.lab.directory / "redfish.log").write_text(done.stdout + done.stderr)
    return done


def wait_until(come: Callable[[], object], seconds: float) -> bool:
    """Wait for something to be true; return whether it is."""
    deadline = time.monotonic() + seconds
    while not come() and time.monotonic() < deadline:
        time.sleep(1)
    return bool(come())
