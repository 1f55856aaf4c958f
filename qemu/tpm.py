"""A TPM 2.0 (swtpm) as a directory with its state, and a process per power-on.

The lockout trap. A TPM that loses power after it used an object under dictionary-attack
protection (what Clevis seals is) counts that as one failed attempt at the next start, and swtpm
locks after 3. An orderly shutdown of the guest (TPM2_Shutdown) counts nothing. So stop machines
in an orderly way, and give a TPM whose machine was cut off a `reset_lockout` before it is used
again (`lockout_counter` shows where it stands); never where the counter itself is what a test is
about.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qemu.errors import RigError
from qemu.program import end, find, mortal, run

_STATE = "tpm2-00.permall"

# TPM 2.0 Library, part 2 (structures) and part 3 (commands).
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_STARTUP, _SHUTDOWN, _GET_CAPABILITY, _LOCK_RESET = 0x144, 0x145, 0x17A, 0x139
_CLEAR = struct.pack(">H", 0)
_LOCKOUT_COUNTER = struct.pack(">III", 6, 0x20E, 1)  # TPM_CAP_TPM_PROPERTIES, property, one
# TPM_RH_LOCKOUT with a password session (TPM_RS_PW) and an empty password
_LOCKOUT_EMPTY_AUTH = struct.pack(">IIIHBH", 0x4000000A, 9, 0x40000009, 0, 0, 0)


class Tpm:
    """A TPM's identity and memory; at most one machine may have it at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def create(cls, directory: Path, banks: tuple[str, ...] = ("sha256",)) -> Tpm:
        """Make a new TPM with its own seeds; with one PCR bank, as firmware measures each of them.

        Every further bank makes the emulated firmware hash the whole live image once more.
        """
        directory.mkdir(parents=True, exist_ok=True)
        run(
            "swtpm_setup", "--tpm2", "--tpmstate", directory.resolve(), "--overwrite",
            "--pcr-banks", ",".join(banks),
        )  # fmt: skip
        return cls(directory)

    def copy(self, directory: Path) -> Tpm:
        """Return the same TPM a second time: for a branch of the machine that is switched off."""
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.directory / _STATE, directory / _STATE)
        return Tpm(directory)

    @contextmanager
    def powered(self, log: Path, *, resumed: bool = False) -> Iterator[socket.socket]:
        """Start swtpm; yield the socket that QEMU takes as `-tpmdev emulator`'s control channel.

        With `resumed` no TPM2_Startup is done by swtpm: the state comes with the saved machine.
        The caller passes the socket to QEMU and must have ended QEMU when it leaves.
        """
        ours, theirs = socket.socketpair()
        flags = "not-need-init" if resumed else "not-need-init,startup-clear"
        argv = [
            find("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={self.directory.resolve()}",
            "--ctrl", f"type=unixio,clientfd={theirs.fileno()}", "--flags", flags,
            "--log", f"file={log.resolve()},level=1,truncate",
        ]  # fmt: skip
        process = subprocess.Popen(
            mortal(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()
            end(process)

    def lockout_counter(self) -> int:
        """Return how many failed or cut-off uses the switched-off TPM holds against its owner."""
        with self._commands() as tpm:
            answer = tpm.send(_NO_SESSIONS, _GET_CAPABILITY, _LOCKOUT_COUNTER)
        return int.from_bytes(answer[-4:], "big")

    def reset_lockout(self) -> None:
        """Forget them (TPM2_DictionaryAttackLockReset); the lockout password must be empty."""
        with self._commands() as tpm:
            tpm.send(_SESSIONS, _LOCK_RESET, _LOCKOUT_EMPTY_AUTH)

    @contextmanager
    def _commands(self) -> Iterator[_Commands]:
        """Start the TPM without a machine, and shut it down in an orderly way."""
        ours, theirs = socket.socketpair()
        argv = [
            find("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={self.directory.resolve()}",
            "--fd", str(theirs.fileno()), "--flags", "not-need-init", "--terminate",
        ]  # fmt: skip
        process = subprocess.Popen(
            mortal(argv), stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
        theirs.close()
        with ours:
            ours.settimeout(30)
            commands = _Commands(ours)
            try:
                commands.send(_NO_SESSIONS, _STARTUP, _CLEAR)
                yield commands
                commands.send(_NO_SESSIONS, _SHUTDOWN, _CLEAR)
            finally:
                end(process)


class _Commands:
    """Raw TPM commands over a socket."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def send(self, tag: int, code: int, body: bytes) -> bytes:
        """Return the body of the answer; RigError for any response code but success."""
        self._link.sendall(struct.pack(">HII", tag, 10 + len(body), code) + body)
        header = self._receive(10)
        _, length, response = struct.unpack(">HII", header)
        body = self._receive(length - 10)
        if response:
            raise RigError(f"tpm: command {code:#x} failed with response code {response:#x}")
        return body

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            piece = self._link.recv(length - len(received))
            if not piece:
                raise RigError("tpm: swtpm ended in the middle of an answer")
            received += piece
        return bytes(received)
