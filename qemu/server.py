"""The deploy server (`bedplate serve`) as a process of its own, as an operator runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from qemu.errors import RigError
from qemu.program import end, mortal, repository
from qemu.tang import HOST_SEEN_BY_GUEST

PLAN_KEY = repository() / "build/keys/plan/plan.key"
"""Made by `make keys`, its public half is in the live image: over plain http an unsigned plan is
refused."""
_LISTENS = re.compile(r"https?://[^\s/]+:([0-9]+)")


class DeployServer:
    """`bedplate serve DIRECTORY` on loopback, on the same port at every start.

    With `plan_key` it signs the plans that have no signature, and answers challenges.
    """

    def __init__(self, directory: Path, plan_key: Path | None = None) -> None:
        self.directory, self._plan_key = directory, plan_key
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        if not self._port:
            raise RigError(f"{self.directory}: the deploy server was not started yet")
        return self._port

    @property
    def url(self) -> str:
        """Where a guest finds it."""
        return f"http://{HOST_SEEN_BY_GUEST}:{self.port}"

    @property
    def local_url(self) -> str:
        """Where the host finds it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, timeout: float = 60) -> DeployServer:
        """Start it and wait until it says that it listens; its output is in NAME.log beside it."""
        log = self.directory.with_name(f"{self.directory.name}.log")
        argv = [
            sys.executable, "-m", "agent", "serve", str(self.directory),
            "--listen", f"127.0.0.1:{self._port}",
            *(["--plan-key", str(self._plan_key)] if self._plan_key is not None else []),
        ]  # fmt: skip
        with log.open("wb") as words:
            self._process = subprocess.Popen(
                mortal(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                start_new_session=True,
            )
        announced, listening = bytearray(), threading.Event()
        copy = (self._process, log, announced, listening)
        threading.Thread(target=_copy, args=copy, name="server", daemon=True).start()
        deadline = time.monotonic() + timeout
        while not listening.wait(0.1):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                words_ = log.read_text(errors="replace")
                raise RigError(f"the deploy server did not start: {words_[-2000:]}")
        found = _LISTENS.search(announced.decode(errors="replace"))
        assert found is not None
        self._port = int(found.group(1))
        return self

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None

    def __enter__(self) -> DeployServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _copy(
    process: subprocess.Popen[bytes], log: Path, announced: bytearray, listening: threading.Event
) -> None:
    """Append what the server says to its log, and tell when it has named its address."""
    assert process.stdout is not None
    with log.open("ab", buffering=0) as file, process.stdout as lines:
        for line in lines:
            file.write(line)
            if not listening.is_set():
                announced += line
                if _LISTENS.search(announced.decode(errors="replace")):
                    listening.set()
