"""Run programs: to get something done, or to measure what they cost.

CPU seconds are those of the program and every descendant it waited for (getrusage), which other
load does not change. Memory is sampled: the resident sets of the whole process tree added up. The
kernel's own maximum (ru_maxrss) is of no use here, for it begins with that of the process that
forked.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.bench.errors import BenchError

SAMPLING = 0.02
"""Seconds between two looks at the memory of a process tree."""
LONGEST = 900.0
"""Seconds after which a program that is measured counts as hanging."""
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_KCMP = {"x86_64": 312, "aarch64": 272}  # the system call's number (kcmp(2))
_KCMP_VM = 1
_libc = ctypes.CDLL(None, use_errno=True)

Argv = Sequence[str | os.PathLike[str]]


class FailedError(Exception):
    """A program that was measured ended badly; the message says how."""


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds, CPU seconds (its own; the whole machine's), bytes of memory."""

    wall: float
    cpu: float
    machine: float
    rss: int
    said: str
    """Its standard output."""


def run(
    argv: Argv,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    timeout: float = 1800,
) -> str:
    """Run a program to its end and return its stdout; `BenchError` unless it exits with 0."""
    words = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=_environment(environment),
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
        )
    except FileNotFoundError:
        raise BenchError(f"{words[0]}: not installed, run qemu/install-deps") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{shlex.join(words)}: did not end in {timeout:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        raise BenchError(f"{shlex.join(words)}: exited with status {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def measure(
    argv: Argv,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = LONGEST,
) -> Cost:
    """Run a program and return its cost; raise `FailedError` when it fails or hangs."""
    words = [os.fspath(word) for word in argv]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        busy = machine_cpu()
        began = time.monotonic()
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=complained,
            start_new_session=True,
        )
        alarm = threading.Timer(timeout, _kill, (process.pid,))
        alarm.start()
        memory = _Memory(process.pid)
        memory.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            alarm.cancel()
            memory.stop()
            if process.returncode is None:
                _kill(process.pid)
                process.wait()
        busy = machine_cpu() - busy
        said.seek(0)
        complained.seek(0)
        if process.returncode:
            last = last_line(complained.read())
            status_text = f"exited with status {process.returncode} after {wall:.0f} s"
            raise FailedError(f"{status_text}: {last}")
        cpu = usage.ru_utime + usage.ru_stime
        return Cost(wall, cpu, busy, memory.peak, said.read().decode(errors="replace"))


def last_line(said: bytes | str) -> str:
    """Return the last line of what a program said: the one that names the reason."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    lines = (line.strip() for line in reversed(text.splitlines()))
    return next((line[-300:] for line in lines if line), "said nothing")


def machine_cpu() -> float:
    """Return the CPU seconds that this machine was busy since it started, of all cores."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    user, nice, system, _idle, _wait, irq, softirq = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICK


def process_cpu(pid: int) -> float:
    """Return the CPU seconds of a living process and of its threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return {**os.environ, "LC_ALL": "C.UTF-8", "PATH": path, **(more or {})}


def _kill(pid: int) -> None:
    """End a program that was started in a session of its own, with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class _Memory(threading.Thread):
    """Samples the memory of a process tree until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="memory", daemon=True)
        self.peak = 0
        self._pid = pid
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(SAMPLING):
            self.peak = max(self.peak, _resident(self._pid))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _resident(pid: int, parent: int = 0) -> int:
    """Return the resident memory of a process and its descendants, in bytes (proc_pid_statm(5)).

    A child that was made by vfork and has not started its program yet lives in its parent's memory,
    which is counted once.
    """
    place = Path(f"/proc/{pid}")
    try:
        own = int((place / "statm").read_text().split()[1]) * _PAGE
        if parent and _same_memory(pid, parent):
            own = 0
        children = [
            int(child)
            for task in (place / "task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (OSError, IndexError):  # it ended
        return 0
    return own + sum(_resident(child, pid) for child in children)


def _same_memory(pid: int, other: int) -> bool:
    """Ask kcmp(2) whether two processes share their address space; where it is unknown, no."""
    number = _KCMP.get(platform.machine())
    return number is not None and _libc.syscall(number, pid, other, _KCMP_VM, 0, 0) == 0
