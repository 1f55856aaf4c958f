"""A real nginx on loopback, with everything it writes in one directory."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAM = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Nginx:
    """Runs `http` (the inside of an http block) until the context ends."""

    def __init__(self, directory: Path, http: str, port: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.log, self.errors = port, directory / "access.log", directory / "error.log"
        self._conf = directory / "nginx.conf"
        temporary = " ".join(f"{name}_temp_path {directory}/{name};" for name in _TEMPORARY)
        self._conf.write_text(
            "daemon off; master_process off; worker_processes 1;\n"
            f"pid {directory}/pid; error_log {self.errors} info;\n"
            "events { worker_connections 256; }\n"
            "http {\n"
            "log_format parts '$uri $status $body_bytes_sent \"$http_range\"';\n"
            f"access_log {self.log} parts;\n"
            f"{temporary}\n{http}\n}}\n"
        )

    def __enter__(self) -> Nginx:
        assert PROGRAM is not None
        command = [PROGRAM, "-c", str(self._conf), "-e", str(self.errors)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            assert self._process.poll() is None, self.errors.read_text()
            time.sleep(0.05)
        raise AssertionError("nginx does not listen")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def served(self, suffix: str) -> list[tuple[int, str, int]]:
        """Return status, Range and bytes of the body of each answer for a path that ends so."""
        lines = (line.split(" ", 3) for line in self.log.read_text().splitlines())
        return [
            (int(status), asked.strip('"'), int(sent))
            for uri, status, sent, asked in lines
            if uri.endswith(suffix)
        ]
