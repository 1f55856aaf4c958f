"""A PostgreSQL of our own: Debian's programs on a temporary directory and a unix socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

PROGRAMS = Path("/usr/lib/postgresql")
NAME = "bedplate"


@dataclass
class Postgres:
    """A cluster; `start` and `stop` it as often as wanted. Nobody but this machine reaches it."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None
    made: int = field(default=0)

    @property
    def programs(self) -> Path:
        (*_, newest) = sorted(PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
        return newest

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self.programs / "postgres", "-D", self.directory / "cluster",
                    "-k", self.directory, "-c", "listen_addresses=", "-c", "fsync=off",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, **_nobody(),
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop it as a power cut would for its clients: connections break."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: immediate shutdown
            self.process.wait(60)
            self.process = None

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self.directory), user=NAME, dbname="postgres", autocommit=True
        )

    def database(self) -> str:
        """Make an empty database; return its URL."""
        self.made += 1
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE test{self.made}")
        return f"postgresql+psycopg://{NAME}@/test{self.made}?host={self.directory}"


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Make a cluster and run it; it is gone at the end of the context."""
    directory = Path(tempfile.mkdtemp(prefix="bedplate-postgres-"))
    try:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        cluster = Postgres(directory)
        subprocess.run(
            [
                cluster.programs / "initdb", "-D", directory / "cluster", "-U", NAME,
                "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C",
            ],
            check=True, capture_output=True, timeout=120, **_nobody(),
        )  # fmt: skip
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _nobody() -> dict[str, Any]:
    """Return how a program is started as somebody else: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {"cwd": "/"}
    found = pwd.getpwnam("nobody")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": [], "cwd": "/"}
