"""Operators: who may look at the fleet. Passwords as scrypt in a file, sessions as signed cookies.

A line of the file is `name:scrypt:N:r:p:salt:hash`, the last two in base64; `bedplate operator add`
writes it. A session ends with its time, and when its operator's line is changed or removed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import MachineError, Problem
from agent.secret import Secret
from agent.server.escrow import write_durably

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
SESSION_SECONDS = 12 * 3600
_COST, _BLOCK, _LANES = 2**15, 8, 1  # 32 MiB and about a tenth of a second
_MEMORY = 256 * 1024 * 1024
_REMEMBERED = 100
_REMEMBERED_SECONDS = 300.0


@dataclass(frozen=True)
class Operator:
    """One line of the file."""

    name: str
    cost: int
    block: int
    lanes: int
    salt: bytes
    hash: bytes

    @classmethod
    def parse(cls, line: str) -> Operator:
        """Raise `ValueError` for anything but a line as described above."""
        name, kind, cost, block, lanes, salt, digest = line.split(":")
        if kind != "scrypt" or not NAME.fullmatch(name):
            raise ValueError("not a line of an operator")
        made = cls(name, int(cost), int(block), int(lanes), _bytes(salt), _bytes(digest))
        if not (made.cost * made.block * 128 <= _MEMORY // 2 and made.salt and made.hash):
            raise ValueError("scrypt parameters out of range")
        return made

    @classmethod
    def make(cls, name: str, password: Secret) -> Operator:
        salt = os.urandom(16)
        digest = _scrypt(password.value, salt, _COST, _BLOCK, _LANES)
        return cls(name, _COST, _BLOCK, _LANES, salt, digest)

    def has(self, password: bytes) -> bool:
        """Return whether this is the password; takes a tenth of a second on purpose."""
        made = _scrypt(password, self.salt, self.cost, self.block, self.lanes)
        return hmac.compare_digest(made, self.hash)

    @property
    def line(self) -> str:
        salt, digest = (base64.b64encode(each).decode() for each in (self.salt, self.hash))
        return f"{self.name}:scrypt:{self.cost}:{self.block}:{self.lanes}:{salt}:{digest}"


class Operators:
    """The file, read anew when it changes. Safe in threads."""

    def __init__(self, file: Path, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._version: tuple[int, int, int] | None = None
        self._known: dict[str, Operator] = {}
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._nobody = Operator.make("nobody", Secret.random())
        self._current()

    def admits(self, name: str, password: str) -> bool:
        """Return whether this is an operator and his password."""
        known = self._current().get(name)
        operator = known or self._nobody  # so that the time does not tell which names there are
        secret = password.encode("utf-8", "replace")
        mark = self._mac(f"basic\n{operator.line}\n".encode() + secret)
        with self._lock:
            # A program that sends its password with every request would keep a core busy.
            if known and self._remembered.get(mark, 0.0) > self._clock():
                return True
        if not operator.has(secret) or known is None:
            return False
        with self._lock:
            self._remembered[mark] = self._clock() + _REMEMBERED_SECONDS
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return True

    def session(self, name: str) -> str:
        """Return the value of a cookie for an operator who has shown his password."""
        operator = self._current()[name]
        text = f"{name}:{int(self._clock()) + SESSION_SECONDS}"
        return f"{text}:{self._seal(text, operator)}"

    def of_session(self, cookie: str) -> str | None:
        """Return whose session a cookie is, None if it is none or is over."""
        text, _, seal = cookie.rpartition(":")
        name, _, end = text.partition(":")
        operator = self._current().get(name)
        if operator is None or not (end.isascii() and end.isdigit() and len(end) < 16):
            return None
        good = hmac.compare_digest(
            seal.encode("utf-8", "replace"), self._seal(text, operator).encode()
        )
        return name if good and int(end) > self._clock() else None

    def _seal(self, text: str, operator: Operator) -> str:
        return self._mac(f"session\n{operator.line}\n{text}".encode()).hex()

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, hashlib.sha256)

    def _current(self) -> dict[str, Operator]:
        with self._lock:
            try:
                found = self._file.stat()
                version = (found.st_mtime_ns, found.st_size, found.st_ino)
                if version != self._version:
                    self._known = read(self._file)
                    self._version = version
            except OSError as error:
                raise _problem(self._file, error.strerror or str(error)) from error
            return self._known


def read(file: Path) -> dict[str, Operator]:
    """Return the operators of a file by name; raise `MachineError` naming a line that is none."""
    known = {}
    for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            operator = Operator.parse(line.strip())
        except ValueError:
            raise _problem(
                file, f"line {number} was not written by bedplate operator add"
            ) from None
        known[operator.name] = operator
    return known


def write(file: Path, known: dict[str, Operator]) -> None:
    """Replace a file of operators, mode 0600."""
    try:
        write_durably(file, "".join(f"{each.line}\n" for each in known.values()).encode())
    except OSError as error:
        raise _problem(file, f"cannot be written: {error.strerror or error}") from error


def _problem(file: Path, message: str) -> MachineError:
    return MachineError([Problem(str(file), message)])


def _scrypt(password: bytes, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=cost, r=block, p=lanes, maxmem=_MEMORY, dklen=32)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
