"""One emulated machine at a time on this host: whoever comes second waits for its turn.

Two machines under emulation on two cores starve each other until their timeouts fail. The lock
is a file, so it holds between processes and vanishes with its holder; who waits longest is next.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if holder.endswith(f"(process {os.getpid()})"):
                raise RigError(f"{name}: one machine at a time: {holder} still runs") from None
            say(f"{name}: waiting for {holder} to end ({lock})")
            _wait(file.fileno(), timeout, f"{name}: waited {timeout:g} s for {holder}")
        file.truncate(0)
        file.write(f"{name} (process {os.getpid()})\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _wait(descriptor: int, timeout: float, message: str) -> None:
    """Take the lock when it is our turn, by a call that blocks: to poll would lose to newcomers.

    The thread has a descriptor of its own (dup shares the lock), because it stays behind when the
    wait is given up, and lets go of what it gets then.
    """
    got, given_up, settled = threading.Event(), threading.Event(), threading.Lock()
    own = os.dup(descriptor)

    def take() -> None:
        fcntl.flock(own, fcntl.LOCK_EX)
        with settled:
            if given_up.is_set():
                fcntl.flock(own, fcntl.LOCK_UN)
            got.set()
        os.close(own)

    threading.Thread(target=take, name="turn", daemon=True).start()
    if not got.wait(timeout):
        with settled:
            if not got.is_set():
                given_up.set()
                raise WaitTimeoutError(message)
