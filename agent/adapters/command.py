"""Run programs: the only module that imports `subprocess`.

A secret goes to the program's stdin through a memfd and never into argv, so a logged command line
is always safe to keep. A memfd and not a pipe, because systemd-cryptenroll seeks in its key file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
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

    `timeout` is in seconds; a program that exceeds it is killed, with those that it started.
    """
    done = attempt(*argv, secret=secret, timeout=timeout)
    if done.status:
        raise CommandError(done.argv, f"exited with status {done.status}", done.stderr)
    return done.stdout


def attempt(*argv: Argument, secret: Secret | None = None, timeout: float = 60) -> Finished:
    """Run a program and return what it left, whatever its exit status.

    Raises `CommandError` when it cannot be started or does not finish in `timeout` seconds.
    """
    args = [os.fspath(argument) for argument in argv]
    log.debug("run %s", shlex.join(args))
    with _in_memory(secret) as stdin:
        # A session of its own: all that it starts can be killed with it, and a program that would
        # ask a person on the console finds none.
        process = _started(
            args, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, session=True
        )
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            _kill_group(process)
            raise CommandError(args, f"did not finish in {timeout:g} s") from error
        except BaseException:
            _kill_group(process)
            raise
    stderr = err.decode(errors="replace")[-STDERR_KEPT:]
    log.debug("exit %d %s", process.returncode, stderr.strip())
    return Finished(tuple(args), process.returncode, out.decode(errors="replace"), stderr)


@contextlib.contextmanager
def feeding(
    *argv: Argument, pipe_size: int = 1 << 20, patience: float | None = None
) -> Iterator[IO[bytes]]:
    """Start a program and yield its stdin; on leaving, close it and wait.

    A non-zero exit raises `CommandError` with the last KiB of stderr, and so does a program that
    stopped reading (EPIPE), whatever its exit status: what it did not read is missing somewhere.
    Any other exception in the body kills the program.
    `pipe_size` in bytes is F_SETPIPE_SZ: a 1 MiB pipe costs a fifth less CPU than 64 KiB.
    A program that is not done `patience` seconds after its stdin was closed is killed, and that
    raises `CommandError`.
    """
    args = [os.fspath(argument) for argument in argv]
    log.debug("feed %s", shlex.join(args))
    with _stderr_file() as stderr:
        process = _started(
            args,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pipe_size=pipe_size,
        )
        assert process.stdin is not None
        stopped_reading = False
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError:
            stopped_reading = True
            # Closed before the wait: the broken pipe may be another one, and this program reading.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        except BaseException:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            raise
        if patience is not None and not _ends_within(process, patience):
            process.kill()
            process.wait()
            raise CommandError(args, f"did not finish in {patience:g} s", _tail(stderr))
        status = process.wait()
        if status:
            raise CommandError(args, f"exited with status {status}", _tail(stderr))
        if stopped_reading:
            raise CommandError(args, "ended before it had read everything", _tail(stderr))


@contextlib.contextmanager
def reading(*argv: Argument, pipe_size: int = 1 << 20) -> Iterator[IO[bytes]]:
    """Start a program and yield its stdout; on leaving, read what is left of it and wait.

    A non-zero exit raises `CommandError` with the last KiB of stderr, and it does so in the read
    that would have returned the end: who reads never takes half of a stream for all of it. Any
    other exception in the body kills the program. Its stdin is empty.
    """
    args = [os.fspath(argument) for argument in argv]
    log.debug("read %s", shlex.join(args))
    with _stderr_file() as stderr:
        process = _started(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            pipe_size=pipe_size,
            session=True,
        )
        assert process.stdout is not None
        try:
            with process.stdout, io.BufferedReader(_Output(process, args, stderr), 1 << 20) as out:
                yield out
                while out.read(1 << 20):
                    pass
        except BaseException:
            _kill_group(process)
            process.wait()
            raise


class _Output(io.RawIOBase):
    """A program's stdout, whose end is there only when the program ended well."""

    def __init__(self, process: subprocess.Popen[bytes], args: Sequence[str], stderr: int) -> None:
        assert process.stdout is not None
        self._process, self._args, self._stderr = process, args, stderr
        self._descriptor = process.stdout.fileno()

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = os.readv(self._descriptor, [buffer])
        if not size and (status := self._process.wait()):
            what = f"exited with status {status}"
            raise CommandError(self._args, what, _tail(self._stderr))
        return size


def _started(
    args: list[str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    pipe_size: int = -1,
    session: bool = False,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            args,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=ENVIRONMENT,
            pipesize=pipe_size,
            start_new_session=session,
        )
    except FileNotFoundError as error:
        raise CommandError(args, "is not installed") from error
    except OSError as error:
        raise CommandError(args, f"cannot be started: {error.strerror}") from error


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait without the naps of `Popen.wait`, which come to a tenth of a second per program."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(1000 * seconds))
    finally:
        os.close(descriptor)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that leads a session, and all of it that is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


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
