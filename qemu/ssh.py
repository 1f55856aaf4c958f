"""Commands and files over ssh, on one connection: a handshake takes seconds under emulation."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qemu.errors import ConnectionLostError, GuestCommandError, WaitTimeoutError
from qemu.program import end, find, mortal, run

# No file of the user's is read or written, and the cheapest key exchange is taken: the one that
# resists quantum computers, which newer versions prefer, costs an emulated guest seconds more.
_OPTIONS = (
    "-F", "none",
    "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=no",
    "-o", "UserKnownHostsFile=/dev/null",
    "-o", "LogLevel=ERROR",
    "-o", "IdentitiesOnly=yes",
    "-o", "KexAlgorithms=curve25519-sha256",
    "-o", "ServerAliveInterval=20",
    "-o", "ServerAliveCountMax=6",
)  # fmt: skip

_LOST = 255  # ssh(1): the connection's own failure, or a remote status of 255


def generate_key(path: Path) -> Path:
    """Make a key pair, unless it is there already; the public half is `path` with .pub."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bedplate-rig", "-f", path)
    return path


def public_half(key: Path) -> str:
    """Return the public key as a line for authorized_keys, without its newline."""
    return key.with_name(f"{key.name}.pub").read_text().strip()


@dataclass(frozen=True)
class Result:
    """What a command in the guest did."""

    status: int
    stdout: str
    stderr: str
    seconds: float


class Ssh:
    """Root in a guest whose sshd is behind a loopback port; connects at first use."""

    def __init__(
        self, port: int, key: Path, *, user: str = "root", check: Callable[[], None] = lambda: None
    ) -> None:
        self.port, self.key, self.user, self._check = port, key.resolve(), user, check
        # Not in the run's directory: a socket's path may have 107 bytes only (unix(7)).
        self._scratch = Path(tempfile.mkdtemp(prefix="bp-ssh-"))
        self._master: subprocess.Popen[bytes] | None = None

    def wait(self, timeout: float = 180) -> None:
        """Connect, trying again until the guest lets us in; else ConnectionLostError says why."""
        deadline = time.monotonic() + timeout
        while not self._connected():
            self._check()
            left = deadline - time.monotonic()
            if left <= 0:
                why = (self._scratch / "words").read_text(errors="replace").strip()
                raise ConnectionLostError(f"ssh: no connection within {timeout:g} s: {why}")
            if self._master is None or self._master.poll() is not None:
                self._connect(left)
            time.sleep(0.25)

    def run(
        self, command: str, timeout: float = 60, *, check: bool = True, content: bytes = b""
    ) -> Result:
        """Run a command line in the guest's shell, with `content` as its stdin.

        Raises GuestCommandError when it exits with another status than 0 (unless `check` is
        false), WaitTimeoutError, ConnectionLostError.
        """
        self.wait()
        began = time.monotonic()
        try:
            done = subprocess.run(
                [*self._argv(), "--", command], input=content, capture_output=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            shown = (error.stdout or b"").decode(errors="replace")[-2000:]
            raise WaitTimeoutError(f"{command}: not done within {timeout:g} s: {shown}") from None
        stdout, stderr = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
        if done.returncode == _LOST and not self._connected():
            raise ConnectionLostError(f"{command}: {stderr.strip() or 'the connection broke'}")
        if check and done.returncode:
            raise GuestCommandError(command, done.returncode, stdout + stderr)
        return Result(done.returncode, stdout, stderr, time.monotonic() - began)

    def put(self, source: Path, target: str, timeout: float = 300) -> None:
        """Copy a file into the guest."""
        self.write(target, source.read_bytes(), timeout)

    def write(self, target: str, content: bytes, timeout: float = 300) -> None:
        """Write a file in the guest."""
        self.run(f"cat > {shlex.quote(target)}", timeout, content=content)

    def read(self, source: str, timeout: float = 300) -> bytes:
        """Return a file of the guest."""
        self.wait()
        argv = [*self._argv(), "--", f"cat {shlex.quote(source)}"]
        done = subprocess.run(argv, capture_output=True, timeout=timeout)
        if done.returncode:
            raise GuestCommandError(argv[-1], done.returncode, done.stderr.decode(errors="replace"))
        return done.stdout

    def get(self, source: str, target: Path, timeout: float = 300) -> None:
        """Copy a file out of the guest."""
        target.write_bytes(self.read(source, timeout))

    def command(self) -> list[str]:
        """Return the ssh command for a connection of its own, apart from this object's."""
        who = ["-i", str(self.key), "-p", str(self.port), f"{self.user}@127.0.0.1"]
        return [find("ssh"), *_OPTIONS, *who]

    def close(self) -> None:
        """End the connection; the next use makes a new one only on a new object."""
        if self._master is not None:
            end(self._master)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _argv(self) -> list[str]:
        where = ["-S", str(self._scratch / "link"), "-p", str(self.port)]
        return [find("ssh"), *_OPTIONS, *where, f"{self.user}@127.0.0.1"]

    def _connect(self, patience: float) -> None:
        program, *rest = self._argv()
        argv = [
            program, "-M", "-N", "-i", str(self.key),
            "-o", f"ConnectTimeout={max(1, min(60, int(patience)))}", *rest,
        ]  # fmt: skip
        with (self._scratch / "words").open("wb") as words:
            self._master = subprocess.Popen(
                mortal(argv), stdin=subprocess.DEVNULL, stdout=words, stderr=words
            )

    def _connected(self) -> bool:
        """Ask the connection's owner; its socket appears when the guest has let us in."""
        if not (self._scratch / "link").exists():
            return False
        program, *rest = self._argv()
        with contextlib.suppress(subprocess.TimeoutExpired):
            asked = subprocess.run([program, "-O", "check", *rest], capture_output=True, timeout=10)
            return asked.returncode == 0
        return False
