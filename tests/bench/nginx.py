"""The web server of the bench: Debian's nginx, run from build/ and on one address only."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qemu.program import end, mortal
from tests.bench.errors import BenchError
from tests.bench.packages import Unpacked

# tcp_nopush off: on loopback, whose packets are 64 KiB long, Debian's default `on` holds the end of
# every short answer back for 44 ms, and programs that ask for ranges look ten times slower.
CONFIGURATION = """\
user root;
worker_processes 2;
daemon off;
pid {run}/pid;
error_log {run}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush off;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    client_body_temp_path {run};
    proxy_temp_path {run};
    fastcgi_temp_path {run};
    uwsgi_temp_path {run};
    scgi_temp_path {run};
    server {{
        listen {address}:{port};
        root {root};
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A running nginx."""

    url: str
    pid: int
    """Of the master; its children do the work."""


@contextmanager
def serving(root: Path, package: Unpacked, run: Path, address: str) -> Iterator[Server]:
    """Serve a directory over HTTP at `address` until the context ends."""
    run.mkdir(parents=True, exist_ok=True)
    port = _free_port(address)
    file = run / "nginx.conf"
    file.write_text(CONFIGURATION.format(run=run, root=root, address=address, port=port))
    argv = [str(package.program("nginx")), "-c", str(file), "-e", str(run / "error.log")]
    process = subprocess.Popen(
        mortal(argv),
        env={**os.environ, **package.environment()},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(process, address, port, run / "error.log")
        yield Server(f"http://{address}:{port}", process.pid)
    finally:
        end(process)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
    return port


def _wait(process: subprocess.Popen[bytes], address: str, port: int, log: Path) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return
        time.sleep(0.05)
    said = log.read_text()[-1000:] if log.exists() else ""
    raise BenchError(f"nginx: does not answer at {address}:{port}: {said}")
