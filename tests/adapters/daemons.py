"""Real tangd, swtpm and LUKS volumes for tests, on loopback ports of their own."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.command import run
from agent.keyslots import METADATA_SIZE
from agent.secret import Secret

TANGD = ("/usr/libexec/tangd", "/usr/lib/x86_64-linux-gnu/tangd", "/usr/lib/tangd")


@dataclass(frozen=True)
class TangServer:
    """A tangd with keys of its own; every connection starts one, as its socket unit does."""

    url: str
    directory: Path

    @property
    def thumbprint(self) -> str:
        (key,) = self.directory.glob("sig*.jwk")
        return run("jose", "jwk", "thp", "-a", "S256", "-i", key).strip()

    def rotate(self) -> None:
        """Retire all keys, and make new ones: tangd keeps answering for the hidden ones."""
        for number, key in enumerate(list(self.directory.glob("*.jwk"))):
            key.rename(key.with_name(f".{time.monotonic_ns()}{number}.jwk"))
        make_keys(self.directory)


def make_keys(directory: Path) -> None:
    for name, algorithm in (("sig", "ES512"), ("exc", "ECMR")):
        run("jose", "jwk", "gen", "-i", f'{{"alg":"{algorithm}"}}', "-o", directory / f"{name}.jwk")


@contextlib.contextmanager
def tang_server(directory: Path) -> Iterator[TangServer]:
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.glob("*.jwk")):
        make_keys(directory)
    tangd = next(path for path in TANGD if Path(path).exists())
    port = free_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
    with _process("socat", listen, f"EXEC:{tangd} {directory}", port=port):
        yield TangServer(f"http://127.0.0.1:{port}", directory)


@dataclass(frozen=True)
class SoftTpm:
    """A TPM 2.0 that was just switched on; PCR 7 holds what a firmware would have put there."""

    port: int

    @property
    def tcti(self) -> str:
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def tool(self, *argv: str) -> str:
        return run("env", f"TPM2TOOLS_TCTI={self.tcti}", *argv)

    def extend(self, pcr: int, digest: str = "ab" * 32) -> None:
        self.tool("tpm2_pcrextend", f"{pcr}:sha256={digest}")

    def tidy(self) -> None:
        """Flush sessions. Clevis leaves one behind for each sealing to PCRs; the kernel's resource
        manager takes them away, and there is none between swtpm and these tests."""
        self.tool("tpm2_flushcontext", "--loaded-session")

    def handles(self) -> str:
        """List what lies in the TPM's memory, sessions aside."""
        kinds = ("handles-transient", "handles-persistent", "handles-nv-index")
        return "".join(self.tool("tpm2_getcap", kind) for kind in kinds)


@contextlib.contextmanager
def soft_tpm(directory: Path) -> Iterator[SoftTpm]:
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port(also_next=True)  # libtss2-tcti-swtpm takes the next one for control
    argv = (
        "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}",
        "--server", f"type=tcp,port={port},bindaddr=127.0.0.1",
        "--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1",
        "--flags", "not-need-init,startup-clear",
    )  # fmt: skip
    with _process(*argv, port=port + 1):
        tpm = SoftTpm(port)
        tpm.extend(7)
        yield tpm


def luks_volume(path: Path, key: Secret, metadata_size: int = METADATA_SIZE) -> Path:
    """Make a LUKS2 volume in a sparse file, as the storage adapter does on a partition."""
    with path.open("wb") as file:
        file.truncate(32 << 20)
    run(
        "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--key-file", "-",
        "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-slot", "0",
        "--luks2-metadata-size", f"{metadata_size // 1024}k", path,
        secret=key,
    )  # fmt: skip
    return path


def sparse_copy(source: Path, target: Path) -> Path:
    run("cp", "--sparse=always", source, target)
    return target


def free_port(*, also_next: bool = False) -> int:
    """Return a port of loopback nobody listens on; below the range the kernel gives to clients."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for wanted in (port, port + 1) if also_next else (port,):
                stack.enter_context(socket.create_server(("127.0.0.1", wanted)))
            return port


@contextlib.contextmanager
def _process(*argv: str, port: int) -> Iterator[None]:
    program = shutil.which(argv[0])
    assert program, f"{argv[0]} is not installed: see CONTRIBUTING.md"
    with subprocess.Popen([program, *argv[1:]], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(argv[0], port, process)
            yield
        finally:
            process.terminate()


def _wait_for(name: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        if _listens(port):
            return
        time.sleep(0.02)
    raise AssertionError(f"{name} does not listen on port {port}")


def _listens(port: int) -> bool:
    """Look in the kernel's table: to connect would be a first client, which swtpm counts."""
    wanted = f":{port:04X} "
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(
        wanted in line.split(" 00000000:0000 ")[0] + " " and " 0A " in line for line in lines
    )
