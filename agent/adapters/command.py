"""Run programs: the only module that imports `subprocess`.

A secret goes to the program's stdin through a memfd and never into argv, so a logged command line
is always safe to keep. A memfd and not a pipe, because systemd-cryptenroll seeks in its key file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from agent.errors import CommandError
from agent.secret import Secret

log = logging.getLogger(__name__)

STDERR_KEPT = 1024
# Programs are parsed, so they speak English; nothing else of our environment reaches them.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "TERM": "dumb",
}

Argument = str | os.PathLike[str]


@dataclass(frozen=True)
class Finished:
    """What a program left behind: exit status and decoded output."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


class Run(Protocol):
    """Run a program and return its stdout, or raise `CommandError`."""

    def __call__(
        self, *argv: Argument, secret: Secret | None = None, timeout: float = 60
    ) -> str: ...


class Attempt(Protocol):
    """Run a program whose exit status is an answer, not a failure."""

    def __call__(
        self, *argv: Argument, secret: Secret | None = None, timeout: float = 60
    ) -> Finished: ...


def run(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> str:
    """Run a program and return its stdout; raise `CommandError` unless it exits 0.

    `timeout` is in seconds; a program that exceeds it is killed.
    """
    done = attempt(*argv, secret=secret, timeout=timeout)
    if done.status:
        raise CommandError(done.argv, f"exited with status {done.status}", done.stderr)
    return done.stdout


def attempt(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> Finished:
    """Run a program and return what it left, whatever its exit status.

    Raises `CommandError` when it is not installed or does not finish in `timeout` seconds.
    """
    args = [os.fspath(argument) for argument in argv]
    log.debug("run %s", shlex.join(args))
    try:
        with _in_memory(secret) as stdin:
            done = subprocess.run(
                args,
                stdin=stdin,
                capture_output=True,
                timeout=timeout,
                env=ENVIRONMENT,
                check=False,
            )
    except FileNotFoundError as error:
        raise CommandError(args, "is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(args, f"did not finish in {timeout:g} s") from error
    stderr = done.stderr.decode(errors="replace")[-STDERR_KEPT:]
    log.debug("exit %d %s", done.returncode, stderr.strip())
    return Finished(tuple(args), done.returncode, done.stdout.decode(errors="replace"), stderr)


@contextlib.contextmanager
def feeding(*argv: Argument, pipe_size: int = 1 << 20) -> Iterator[IO[bytes]]:
    """Start a program and yield its stdin; on leaving, close it and wait.

    A non-zero exit raises `CommandError` with the last KiB of stderr, also when writing to the
    program failed because it had died (EPIPE). An exception in the body kills the program.
    `pipe_size` in bytes is F_SETPIPE_SZ: a 1 MiB pipe costs a fifth less CPU than 64 KiB.
    """
    args = [os.fspath(argument) for argument in argv]
    log.debug("feed %s", shlex.join(args))
    with _stderr_file() as stderr:
        try:
            process = subprocess.Popen(
                args,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=ENVIRONMENT,
                pipesize=pipe_size,
            )
        except FileNotFoundError as error:
            raise CommandError(args, "is not installed") from error
        assert process.stdin is not None
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError:
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        except BaseException:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            raise
        status = process.wait()
        if status:
            raise CommandError(args, f"exited with status {status}", _tail(stderr))


@contextlib.contextmanager
def _in_memory(secret: Secret | None) -> Iterator[int]:
    if secret is None:
        yield subprocess.DEVNULL
        return
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, secret.value)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _stderr_file() -> Iterator[int]:
    descriptor = os.memfd_create("stderr", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _tail(descriptor: int) -> str:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    return os.pread(descriptor, STDERR_KEPT, max(0, size - STDERR_KEPT)).decode(errors="replace")
