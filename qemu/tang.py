"""Real tangd on the host's loopback, one process per connection as systemd's socket unit does.

A guest on QEMU's user network reaches it at http://10.0.2.2:PORT. The port is chosen once, kept
beside the keys and asked for again at every start, because it ends up in LUKS headers.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qemu.errors import RigError
from qemu.program import end, find, run

HOST_SEEN_BY_GUEST = "10.0.2.2"

# Debian has them here; other distributions below /usr/lib.
_PLACES = ("/usr/libexec", "/usr/lib/tang", "/usr/lib/x86_64-linux-gnu")

# tangd's own line on stderr for an answered request
_RECOVERY = re.compile(r"POST /rec/\S+ => 200")


class Tang:
    """A Tang server: a directory with keys, and a port that answers while it is up."""

    def __init__(self, directory: Path) -> None:
        """Open the server in this directory; a new one gets its keys and its port."""
        self.directory, self._keys = directory, directory / "keys"
        self._log = directory / "tangd.log"
        self._listener: socket.socket | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        if not self._keys.exists():
            self._keys.mkdir(parents=True)
            run(find("tangd-keygen", *_PLACES), self._keys)

    @property
    def port(self) -> int:
        """The port it listens on, or will listen on again."""
        return int((self.directory / "port").read_text())

    @property
    def url(self) -> str:
        """Where a guest finds it."""
        return f"http://{HOST_SEEN_BY_GUEST}:{self.port}"

    @property
    def up(self) -> bool:
        return self._listener is not None

    def start(self) -> Tang:
        """Begin to answer; from the port it had before, if it had one."""
        if self._listener is not None:
            return self
        known = self.directory / "port"
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self.port if known.exists() else 0))
        except OSError as error:
            listener.close()
            raise RigError(f"tang: port {self.port} is taken, and clients know it") from error
        listener.listen()
        known.write_text(f"{listener.getsockname()[1]}\n")
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), name="tang", daemon=True).start()
        return self

    def stop(self) -> None:
        """Go down: connections are refused from now on, and those that are open are cut."""
        if self._listener is None:
            return
        # close() alone leaves the thread in accept(), and the port open with it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        for child in self._children:
            end(child)
        self._children.clear()

    def __enter__(self) -> Tang:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def advertisement(self) -> dict[str, Any]:
        """Return what it advertises: a JWS signed by every signing key (RFC 7515, JSON form)."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/adv", timeout=10) as answer:
            found = json.load(answer)
        assert isinstance(found, dict)
        return found

    def thumbprint(self) -> str:
        """Return the thumbprint of its signing key: what a plan pins (as tang-show-keys prints)."""
        for name in sorted(self._keys.glob("[!.]*.jwk")):
            key = json.loads(name.read_text())
            if "verify" in key.get("key_ops", ()):
                return thumbprint(key)
        raise RigError(f"tang: no signing key in {self._keys}")

    def recoveries(self) -> int:
        """Return how often a key was recovered with its help so far: unlocks, seen from here."""
        if not self._log.exists():
            return 0
        return len(_RECOVERY.findall(self._log.read_text(errors="replace")))

    def rotate(self) -> None:
        """Make new keys; the old ones still answer, but are not advertised any more."""
        run(find("tangd-rotate-keys", *_PLACES), "-d", self._keys)

    def _serve(self, listener: socket.socket) -> None:
        program = find("tangd", *_PLACES)
        for connection in _accepted(listener):
            with connection, self._log.open("ab") as log:
                argv, link = [program, str(self._keys)], connection.fileno()
                child = subprocess.Popen(argv, stdin=link, stdout=link, stderr=log)
            self._children = [each for each in self._children if each.poll() is None] + [child]


def thumbprint(key: dict[str, Any]) -> str:
    """Return the SHA-256 thumbprint of an elliptic-curve JWK (RFC 7638)."""
    members = {name: key[name] for name in ("crv", "kty", "x", "y")}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield connections until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            yield listener.accept()[0]
