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
    with lock.open("a+") as file, lock.with_name(f"{lock.name}.next").open("a") as turnstile:
        try:
            fcntl.flock(turnstile, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if holder.endswith(f"(process {os.getpid()})"):
                raise RigError(f"{name}: one machine at a time: {holder} still runs") from None
            say(f"{name}: waiting for {holder} to end ({lock})")
            message = f"{name}: waited {timeout:g} s for {holder}"
            _wait(turnstile.fileno(), file.fileno(), timeout, message)
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        file.truncate(0)
        file.write(f"{name} (process {os.getpid()})\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _wait(turnstile: int, lock: int, timeout: float, message: str) -> None:
    """Take both locks when it is our turn, by calls that block.

    Who waits for the lock holds the turnstile meanwhile. So one that lets go of the lock and
    wants it again at once comes second, which no way of waiting for the lock alone achieves.

    The thread has descriptors of its own (dup shares the locks), because it stays behind when the
    wait is given up, and lets go of what it gets then.
    """
    got, given_up, settled = threading.Event(), threading.Event(), threading.Lock()
    own = [os.dup(turnstile), os.dup(lock)]

    def take() -> None:
        for each in own:
            fcntl.flock(each, fcntl.LOCK_EX)
        with settled:
            if given_up.is_set():
                for each in own:
                    fcntl.flock(each, fcntl.LOCK_UN)
            got.set()
        for each in own:
            os.close(each)

    threading.Thread(target=take, name="turn", daemon=True).start()
    if not got.wait(timeout):
        with settled:
            if not got.is_set():
                given_up.set()
                raise WaitTimeoutError(message)
