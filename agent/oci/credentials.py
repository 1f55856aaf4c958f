"""Who we are to which registry.

From the files that `podman login`, `skopeo login` and `docker login` write: containers-auth.json(5)
and docker's config.json. Read when a registry asks, never before. A secret is never in an argument,
the environment, a log line or a message.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import PlanError, Problem
from agent.secret import Secret

LIVE = Path("/etc/bedplate/auth.json")
"""Where a live image has the registry accounts that were baked into it."""
_LIMIT = 1 << 20
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io")


@dataclass(frozen=True)
class Login:
    """An account; `refresh` instead of a password is what `az acr login` and its like leave."""

    user: str
    password: Secret
    refresh: Secret | None = None

    @property
    def basic(self) -> Secret:
        """Return the Authorization header of RFC 7617."""
        pair = self.user.encode() + b":" + self.password.value
        return Secret(b"Basic " + base64.b64encode(pair))


@dataclass(frozen=True)
class Credentials:
    """Accounts by registry: first `given` (for `only` that registry), then the files in order."""

    files: Sequence[Path] = ()
    given: Login | None = None
    only: str | None = None

    @classmethod
    def usual(cls, environment: Mapping[str, str] | None = None) -> Credentials:
        """Return those of whoever runs this: where podman, then docker, keep theirs."""
        env = os.environ if environment is None else environment
        home = Path(env.get("HOME", "/root"))
        runtime = env.get("XDG_RUNTIME_DIR")
        config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
        docker = Path(env.get("DOCKER_CONFIG") or home / ".docker")
        places = (
            LIVE,
            *((Path(runtime) / "containers/auth.json",) if runtime else ()),
            config / "containers/auth.json",
            docker / "config.json",
        )
        return cls(places)

    def login(self, registry: str, repository: str) -> Login | None:
        """Return the account for a repository, or None; raise `PlanError` for a broken file."""
        if self.given is not None and self.only in (None, registry):
            return self.given
        for path in self.files:
            found = _read(path)
            if found is not None and (login := found.login(registry, repository)) is not None:
                return login
        return None

    def looked(self) -> str:
        """Say where accounts were looked for."""
        return ", ".join(str(path) for path in self.files) or "nowhere"


@dataclass(frozen=True)
class _File:
    path: Path
    auths: Mapping[str, Any]
    elsewhere: frozenset[str] = field(default_factory=frozenset)
    """Registries whose accounts a program keeps (credHelpers)."""

    def login(self, registry: str, repository: str) -> Login | None:
        for key in _keys(registry, repository):
            entry = self.auths.get(key)
            if isinstance(entry, dict) and entry:
                return self._login(key, entry)
        if registry in self.elsewhere:
            raise self._wrong(
                f"keeps the account of {registry} in a credential helper, which is not asked: "
                "use a file of its own (podman login --authfile), or --username"
            )
        return None

    def _login(self, key: str, entry: Mapping[str, Any]) -> Login:
        refresh = entry.get("identitytoken")
        try:
            pair = base64.b64decode(entry.get("auth", ""), validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise self._wrong(f"has an `auth` for {key} that is not base64") from None
        user, colon, password = pair.partition(b":")
        if isinstance(refresh, str) and refresh:
            return Login(user.decode(errors="replace"), Secret(password), Secret(refresh))
        if not colon or not user:
            raise self._wrong(f"has an `auth` for {key} that is not USER:PASSWORD in base64")
        return Login(user.decode(errors="replace"), Secret(password.rstrip(b"\0")))

    def _wrong(self, message: str) -> PlanError:
        return PlanError([Problem(str(self.path), message)])


def _keys(registry: str, repository: str) -> Sequence[str]:
    """Return under what an account may be kept, the most special first.

    A file may have accounts for parts of a registry (containers-auth.json(5), "FORMAT").
    """
    parts = repository.split("/")
    paths = ["/".join((registry, *parts[:depth])) for depth in range(len(parts), -1, -1)]
    hub = _HUB_KEYS if registry == "docker.io" else ()
    return (*paths, f"https://{registry}", f"https://{registry}/v1/", f"http://{registry}", *hub)


def _read(path: Path) -> _File | None:
    """Read one file of accounts; a missing one is no error."""
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PlanError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    try:
        document = json.loads(content) if len(content) <= _LIMIT else None
    except (ValueError, RecursionError):
        document = None  # the parser's message could quote what is secret
    if not isinstance(document, dict) or not isinstance(document.get("auths", {}), dict):
        raise PlanError([Problem(str(path), "is not a file of accounts (containers-auth.json(5))")])
    helpers = document.get("credHelpers")
    return _File(
        path,
        document.get("auths", {}),
        frozenset(helpers) if isinstance(helpers, dict) else frozenset(),
    )
