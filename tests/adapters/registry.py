"""A real registry (Debian's package docker-registry) on loopback, all of it in one directory."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.adapters.daemons import free_port

USER, PASSWORD = "user", "secret"
# bcrypt (crypt(5), four rounds) is all that this registry takes.
HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"


@dataclass
class Registry:
    """`settings` are put over a configuration that keeps files and asks nobody who they are."""

    directory: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    address: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    scheme: str = "oci+http"
    process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def blobs(self) -> Path:
        return self.directory / "storage/docker/registry/v2/blobs/sha256"

    def blob(self, digest: str) -> Path:
        """Return the file of a blob (`sha256:…` or the digits alone)."""
        digits = digest.removeprefix("sha256:")
        return self.blobs / digits[:2] / digits / "data"

    def start(self) -> None:
        program = shutil.which("docker-registry")
        assert program, "docker-registry is not installed: run qemu/install-deps"
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "storage")},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": f"{self.address}:{self.port}", **self.settings.get("http", {})},
            **{key: value for key, value in self.settings.items() if key != "http"},
        }
        file = self.directory / "config.yml"
        file.write_text(yaml.safe_dump(configuration))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "serve", file], stdout=log, stderr=log, cwd=self.directory
            )
        self._wait()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def _wait(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < deadline:
            listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
            if re.search(rf":{self.port:04X} \S+ 0A ", listening):
                return
            time.sleep(0.02)
        raise AssertionError(f"docker-registry does not listen on port {self.port}: {self.log()}")


@contextlib.contextmanager
def registry(directory: Path, **settings: Any) -> Iterator[Registry]:
    running = Registry(directory, settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()
