"""`bedplate serve` as a process that can be killed and started again on its port."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path


class Server:
    """Measured from outside: its memory and processor time over all its lives."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.cpu_seconds = 0.0
        self.peak_mib = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> float:
        """Start it; return after how many seconds it took connections."""
        began = time.monotonic()
        log = self._directory.with_suffix(".log")
        argv = [sys.executable, "-m", "agent", "serve", str(self._directory), "--metrics"]
        with log.open("ab") as words:
            self._process = subprocess.Popen(
                [*argv, "--listen", f"127.0.0.1:{self._port}"], stdout=subprocess.PIPE, stderr=words
            )
        assert self._process.stdout is not None
        said = self._process.stdout.readline().decode()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", said)
        if found is None:
            raise SystemExit(f"the server did not start: {said} {log.read_text()[-2000:]}")
        self._port = int(found[1])
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill it in the middle of whatever it does (SIGKILL)."""
        self._measure()
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._measure()
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def _measure(self) -> None:
        assert self._process is not None
        place = Path(f"/proc/{self._process.pid}")
        status = (place / "status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        self.peak_mib = max(self.peak_mib, int(peak[1]) / 1024)
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        self.cpu_seconds += (int(fields[11]) + int(fields[12])) / 100  # utime, stime in USER_HZ
