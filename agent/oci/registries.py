"""Tokens: how a download is let in to a registry, and where images lie there.

A registry that answers 401 says in WWW-Authenticate what it wants: Basic, or a bearer token that
another server gives for this one repository ("Token Authentication Specification" of the
distribution project). What came of it goes to that registry's own origin and that repository, never
where a redirect leads; and over plain HTTP nothing secret goes to another machine.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, urlencode, urlsplit

from agent.errors import PlanError
from agent.oci.challenge import Challenge, challenges
from agent.oci.credentials import Credentials, Login
from agent.oci.repository import Repository, body
from agent.payload.client import Client, origin, refusal
from agent.payload.document import MAX_BYTES
from agent.payload.options import FetchOptions
from agent.payload.trouble import Wrong
from agent.reference import Reference
from agent.secret import Secret

_API = re.compile(r"/v2/(?P<repository>.+)/(?:blobs|manifests)/.+")
_ANSWER = 1 << 20
"""Bytes that the answer of a token server may have."""
_HUB = {"registry-1.docker.io": "docker.io"}


class Registries:
    """All registries of one run. Thread-safe. Implements `agent.payload.registry.Registry`.

    `actions` are what tokens are asked for: `pull`, or `pull,push`.
    """

    def __init__(self, credentials: Credentials | None = None, actions: str = "pull") -> None:
        self._credentials = credentials or Credentials.usual()
        self._actions = actions
        self._held: dict[tuple[str, str], Secret] = {}
        self._lock = threading.Lock()

    def chunks(self, url: str) -> str:
        return f"{_reference(url).base}/blobs/sha256:{{sha256}}"

    def manifest(self, url: str, client: Client, seconds: float) -> tuple[bytes, bytes]:
        repository = Repository(client, _reference(url), seconds)
        image = repository.manifest().image()
        signature = image.signature()
        if image.config.size > MAX_BYTES:
            raise Wrong(f"has a manifest of {image.config.size} bytes, the most is {MAX_BYTES}")
        return repository.blob(image.config), signature

    def authorization(self, url: str) -> str | None:
        place = _Place.of(url)
        held = self._held.get(place.key) if place is not None else None
        return held.text if held is not None else None

    def renew(self, url: str, challenge: str, shown: str | None, options: FetchOptions) -> bool:
        place = _Place.of(url)
        if place is None:
            return False
        with self._lock:  # one thread asks, the others take what it got
            held = self._held.get(place.key)
            if held is not None and held.text != shown:
                return True
            answer = self._answer(place, challenges(challenge), options)
            if answer is None or answer.text == shown:
                return False
            self._held[place.key] = answer
            return True

    def _answer(
        self, place: _Place, asked: tuple[Challenge, ...], options: FetchOptions
    ) -> Secret | None:
        """Return the Authorization header that meets one of the challenges."""
        for challenge in asked:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return self._token(place, challenge, options)
            if challenge.scheme == "basic":
                login = self._login(place)
                if login is None:
                    raise Wrong(
                        f"asks for a user and a password, and there is no account for "
                        f"{place.registry} (looked in {self._credentials.looked()})"
                    )
                place.never_in_clear(place.url)
                return login.basic
        return None

    def _login(self, place: _Place) -> Login | None:
        try:
            return self._credentials.login(place.registry, place.repository)
        except PlanError as error:
            raise Wrong(f"asks for an account: {error}") from None

    def _token(self, place: _Place, challenge: Challenge, options: FetchOptions) -> Secret:
        """Get a bearer token for this repository from the server that the registry names."""
        realm = _realm(challenge, place)
        login = self._login(place)
        fields = {
            **({"service": service} if (service := challenge.parameters.get("service")) else {}),
            "scope": f"repository:{place.repository}:{self._actions}",
        }
        if login is not None:
            place.never_in_clear(realm)
        door = _Door(realm.geturl(), login)
        client = Client(replace(options, registry=door, token=None))
        try:
            if login is not None and login.refresh is not None:
                fields |= {"grant_type": "refresh_token", "client_id": "bedplate"}
                fields |= {"refresh_token": login.refresh.text}
                form = urlencode(fields).encode()
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                asking = client.ask("POST", realm.geturl(), kind, options.request, form)
            else:
                query = "&".join(part for part in (realm.query, urlencode(fields)) if part)
                asking = client.get(realm._replace(query=query).geturl(), {}, options.request)
            with asking as response:
                if response.status in {400, 401, 403}:
                    who = f"refuses the account of {login.user}" if login else "wants an account"
                    raise Wrong(f"its token server {realm.netloc} {who} ({response.status})")
                if response.status != 200:
                    raise refusal(response)
                return Secret(f"Bearer {_token_in(body(response, _ANSWER, 'token'))}")
        finally:
            client.close()


@dataclass(frozen=True)
class _Place:
    """A repository of a registry, found in the address of a request to it."""

    url: SplitResult
    repository: str

    @classmethod
    def of(cls, url: str) -> _Place | None:
        parts = urlsplit(url)
        match = _API.fullmatch(parts.path)
        return cls(parts, match["repository"]) if match else None

    @property
    def key(self) -> tuple[str, str]:
        return origin(self.url), self.repository

    @property
    def registry(self) -> str:
        """The name that accounts are kept under."""
        return _HUB.get(self.url.netloc, self.url.netloc)

    def never_in_clear(self, to: SplitResult) -> None:
        """Refuse to send an account where others on the network could read it."""
        if to.scheme == "http" and not Reference(to.netloc, self.repository).loopback:
            raise Wrong(
                f"asks for an account over plain HTTP ({to.netloc}), where anybody could read it: "
                "use TLS and oci://"
            )


@dataclass(frozen=True)
class _Door:
    """Lets a request in to one token server; implements `agent.payload.registry.Registry`."""

    realm: str
    login: Login | None

    def authorization(self, url: str) -> str | None:
        if self.login is None or self.login.refresh is not None:
            return None
        there, here = urlsplit(url), urlsplit(self.realm)
        same = (origin(there), there.path) == (origin(here), here.path)
        return self.login.basic.text if same else None

    def renew(self, url: str, challenge: str, shown: str | None, options: FetchOptions) -> bool:
        del url, challenge, shown, options
        return False

    def chunks(self, url: str) -> str:
        raise Wrong(f"is no registry: {url}")

    def manifest(self, url: str, client: Client, seconds: float) -> tuple[bytes, bytes]:
        del client, seconds
        raise Wrong(f"is no registry: {url}")


def _reference(url: str) -> Reference:
    try:
        return Reference.parse(url)
    except ValueError as error:
        raise Wrong(str(error)) from None


def _realm(challenge: Challenge, place: _Place) -> SplitResult:
    text = challenge.parameters["realm"]
    wrong = Wrong(f"names {text[:200]!r} as its token server, must be an https address")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"https", place.url.scheme} and parts.hostname and parts.port != 0
    except ValueError:
        raise wrong from None
    if not usable or "@" in parts.netloc:
        raise wrong
    return parts._replace(fragment="")


def _token_in(answer: bytes) -> str:
    try:
        found = json.loads(answer)
        token = found.get("token") or found.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]{1,65536}", token):
        raise Wrong("its token server sends no token")
    return token
