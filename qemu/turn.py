"""One emulated machine at a time on this host: whoever comes second waits for its turn.

Two machines under emulation on two cores starve each other until their timeouts fail. The lock
is a file, so it holds between processes and vanishes with its holder.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qemu.errors import RigError, WaitTimeoutError

HOUR = 3600


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def one_at_a_time(
    lock: Path, name: str, *, timeout: float = 2 * HOUR, say: Callable[[str], None] = _say
) -> Iterator[None]:
    """Hold the lock while the machine `name` runs; wait for it, and say for whom, if it is taken.

    A process that already holds it gets a RigError: it would wait for itself.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        deadline, told = time.monotonic() + timeout, False
        while not _taken(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if holder.endswith(f"(process {os.getpid()})"):
                raise RigError(f"{name}: one machine at a time: {holder} still runs")
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"{name}: waited {timeout:g} s for {holder}")
            if not told:
                say(f"{name}: waiting for {holder} to end ({lock})")
                told = True
            time.sleep(0.5)
        file.truncate(0)
        file.write(f"{name} (process {os.getpid()})\n")
        file.flush()
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
