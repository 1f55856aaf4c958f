"""Tang servers: fetch an advertisement, and make sure of who signed it.

The signature is checked by `jose`, which Clevis brings along and uses for the same: what passes
here passes there, for every algorithm Tang can have. Clevis demands that all advertised signing
keys have signed and that the pinned thumbprint is one of them; so does this.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import requests
import tenacity

from agent.adapters.command import Run
from agent.errors import CommandError, StepError
from agent.machine import Advertisement
from agent.plan.advertisement import Advertisement as Jws
from agent.plan.advertisement import parse_advertisement
from agent.secret import Secret

LIMIT = 64 * 1024
"""Bytes of an advertisement; a real one has about one KiB a key."""
_SHA1 = re.compile(r"[A-Za-z0-9_-]{27}")


class TangServers:
    """The port `Tang`. `timeout` is in seconds, for the connection and for the whole answer.

    What was found once is remembered, a failure too: a step binds the very bytes that its check
    saw, and a server that is away is waited for once.
    """

    def __init__(self, run: Run, *, timeout: float = 10, attempts: int = 3) -> None:
        self._run = run
        self._timeout = timeout
        self._attempts = attempts
        self._found: dict[tuple[str, str], Advertisement | StepError] = {}

    def advertisement(self, url: str, thumbprint: str) -> Advertisement:
        """Fetch and verify: the key with this S256 thumbprint must have signed it."""
        if _SHA1.fullmatch(thumbprint):
            raise StepError(
                f"{url}: {thumbprint} is a SHA-1 thumbprint, give the SHA-256 one of 43 characters"
            )
        asked = (url, thumbprint)
        if asked not in self._found:
            try:
                self._found[asked] = self._fetch_verified(url, thumbprint)
            except StepError as error:
                self._found[asked] = error
        found = self._found[asked]
        if isinstance(found, StepError):
            raise found
        return found

    def verify(self, url: str, advertisement: str, thumbprint: str | None) -> Advertisement:
        """Check an advertisement that came with the plan; no network."""
        jws = _parse(url, advertisement)
        thumbprints = jws.thumbprints()
        if not thumbprints:
            raise StepError(f"{url}: the advertisement has no signing key")
        pinned = thumbprint or thumbprints[0]
        if pinned not in thumbprints:
            raise StepError(
                f"{url}: the advertisement is of {_listed(thumbprints)}, the plan wants {pinned}"
            )
        self._demand_signature(url, jws)
        return Advertisement(url, pinned, jws.text)

    def _fetch_verified(self, url: str, thumbprint: str) -> Advertisement:
        # Asked by thumbprint as Clevis does: tangd then finds retired keys too, and an old key is
        # told from a wrong one.
        answer = self._get(url, f"adv/{thumbprint}")
        if answer is None:
            current = self._get(url, "adv")
            if current is None:
                raise StepError(f"{url}: no Tang server answers there: no /adv (404)")
            raise StepError(
                f"{url}: has no key {thumbprint}, it signs with "
                f"{_listed(_parse(url, current).thumbprints())}"
            )
        jws = _parse(url, answer)
        if not jws.signed_by(thumbprint):
            raise StepError(
                f"{url}: the key {thumbprint} was retired, the server now signs with "
                f"{_listed(jws.thumbprints())}: put that into the plan if you rotated the keys"
            )
        self._demand_signature(url, jws)
        return Advertisement(url, thumbprint, jws.text)

    def _demand_signature(self, url: str, jws: Jws) -> None:
        advertised = jws.keys()
        keys = json.dumps({"keys": [key for key in advertised if "verify" in key["key_ops"]]})
        try:
            # The keys are no secret, but jose reads them from a file or from stdin only.
            self._run("jose", "jws", "ver", "-a", "-i", jws.text, "-k", "-", secret=Secret(keys))
        except CommandError as error:
            if "Signature validation failed" not in error.stderr:
                raise
            raise StepError(
                f"{url}: the advertisement is not signed by {_listed(jws.thumbprints())}, "
                "whose keys it names"
            ) from error

    def _get(self, url: str, path: str) -> str | None:
        """Return the body, or None for 404; raises `StepError` in words for everything else."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((requests.ConnectionError, requests.Timeout)),
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_fixed(1),
            reraise=True,
        )
        try:
            return retrying(self._get_once, url, f"{url.rstrip('/')}/{path}")
        except requests.RequestException as error:
            raise StepError(f"{url}: no Tang server answers there: {_reason(error)}") from error

    def _get_once(self, url: str, address: str) -> str | None:
        deadline = time.monotonic() + self._timeout
        with requests.Session() as session:
            # In the initrd Clevis asks without a proxy and follows no redirection; so do we.
            session.trust_env = False
            with session.get(
                address, timeout=self._timeout, allow_redirects=False, stream=True
            ) as response:
                if response.status_code == requests.codes.not_found:
                    return None
                if response.is_redirect or response.is_permanent_redirect:
                    raise StepError(
                        f"{url}: answers with a redirection to "
                        f"{response.headers.get('Location', '')!r:.200}, which Clevis does not "
                        "follow: give the final address"
                    )
                if response.status_code != requests.codes.ok:
                    raise StepError(f"{url}: answers with HTTP status {response.status_code}")
                return _text(url, response.iter_content(4096), deadline)


def _text(url: str, pieces: Iterator[bytes], deadline: float) -> str:
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > LIMIT:
            raise StepError(f"{url}: the advertisement is longer than {LIMIT // 1024} KiB")
        if time.monotonic() > deadline:
            raise requests.Timeout
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise StepError(f"{url}: the advertisement is not text") from None


def _parse(url: str, text: str) -> Jws:
    try:
        return parse_advertisement(text)
    except ValueError as error:
        raise StepError(f"{url}: the advertisement {error}") from error


def _listed(thumbprints: tuple[str, ...]) -> str:
    return " and ".join(thumbprints) or "nothing"


def _reason(error: BaseException) -> str:
    """Return what the operating system said, from deep below what requests wraps it in."""
    if isinstance(error, requests.Timeout):
        return "timed out"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return str(error)
