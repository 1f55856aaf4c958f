"""Run programs of the host, and say what to install when one is missing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from qemu.errors import RigError

HINT = "run qemu/install-deps"

# Debian keeps mkfs, sfdisk and friends out of an ordinary user's PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def find(name: str, *places: str) -> str:
    """Return the path of a program: on PATH, or else in one of `places` (directories)."""
    found = shutil.which(name, path=os.pathsep.join([_PATH, *places]))
    if found is None:
        raise RigError(f"{name}: not installed, {HINT}")
    return found


def run(*argv: str | os.PathLike[str], content: bytes = b"", timeout: float = 300) -> bytes:
    """Run a program to its end and return its stdout; RigError unless it exits with 0."""
    args = [os.fspath(a) for a in argv]
    args[0] = find(args[0])
    try:
        done = subprocess.run(args, input=content, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise RigError(f"{shlex.join(args)}: did not finish in {timeout:g} s") from error
    if done.returncode:
        stderr = done.stderr.decode(errors="replace").strip()[-2000:]
        raise RigError(f"{shlex.join(args)}: exited with status {done.returncode}: {stderr}")
    return done.stdout


def mortal(argv: Sequence[str]) -> list[str]:
    """Return `argv` wrapped so that the kernel ends the program when this process ends.

    A rig that is killed must not leave an emulator behind. (prctl PR_SET_PDEATHSIG by util-linux'
    setpriv; the signal is tied to the *thread* that starts the program, so start from the main
    thread.)
    """
    return [find("setpriv"), "--pdeathsig", "TERM", "--", *argv]


def end(process: subprocess.Popen[bytes], patience: float = 10) -> None:
    """Ask a child to end, and kill it only when it does not within `patience` seconds."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def repository() -> Path:
    """Return the repository's root, below which `build/` lies."""
    return Path(__file__).resolve().parent.parent
