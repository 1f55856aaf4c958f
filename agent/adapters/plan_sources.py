"""The places a plan is read from: a URL, a systemd credential, a labelled read-only medium."""

from __future__ import annotations

import base64
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)
from urllib3.exceptions import HTTPError

from agent.adapters.medium import Medium
from agent.errors import MachineError, Problem
from agent.find import PLAN_LIMIT, Found
from agent.media.names import LABEL, PLAN
from agent.payload.answer import retry_after
from agent.payload.sign import SIGNATURE_SIZE
from agent.proxy import Proxies
from agent.report.tls import causes, connect, hung_up
from agent.tls import OLDEST
from agent.trust import CHALLENGE, FRESHNESS

log = logging.getLogger(__name__)

CREDENTIAL = "bedplate.plan"
PATIENCE = 180.0
"""Seconds to wait for the network and the server before giving up: DHCP behind a spanning tree that
is still learning takes 50."""


class _TryAgainError(Exception):
    """The server or the way to it is not there yet; `rest` is how long it wants to be let alone."""

    def __init__(self, message: str, rest: float = 0.0) -> None:
        super().__init__(message)
        self.rest = rest


@dataclass(frozen=True)
class UrlPlan:
    """`bedplate.plan=URL` or `bedplate.server=URL` on the kernel command line.

    `url` is None when the command line names none. `signed` asks for the signature too, and
    challenges the server to show that the plan is not a recording.
    """

    url: str | None
    ca_bundle: Path | None = None
    patience: float = PATIENCE
    signed: bool = False
    minimum_tls: str = OLDEST
    proxies: Proxies | None = None

    def describe(self) -> str:
        return self.url or "kernel command line (no bedplate.plan= or bedplate.server=)"

    def read(self) -> Found | None:
        if self.url is None:
            return None
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type(_TryAgainError),
                wait=_pause,
                stop=stop_after_delay(self.patience),
                before_sleep=_tell,
                reraise=True,
            ):
                with attempt:
                    return self._found(self.url)
        except _TryAgainError as error:
            raise MachineError(
                [Problem("plan", f"{self.url}: no answer in {self.patience:.0f} s: {error}")]
            ) from error
        raise AssertionError("Retrying ends by returning or raising")

    def _found(self, url: str) -> Found:
        challenge = secrets.token_hex(32) if self.signed else ""
        with self._session() as session:
            plan = self._get(session, url, {CHALLENGE: challenge} if challenge else {})
            if plan.status != 200:
                text = plan.content[:300].decode(errors="replace").strip()
                raise MachineError(
                    [Problem("plan", f"{url}: the server says {plan.status}: {text}")]
                )
            signature = self._signature(session, plan) if self.signed else None
        return Found(
            url,
            plan.content,
            signature=signature,
            url=plan.url,
            challenge=challenge,
            answer=_decoded(plan.headers.get(FRESHNESS)),
            server_time=_moment(plan.headers.get("Date")),
        )

    def _signature(self, session: requests.Session, plan: _Answer) -> bytes | None:
        """Return the signature beside the plan, None where there is none."""
        answer = self._get(session, _beside(plan), {})
        return answer.content if answer.status == 200 else None

    def _session(self) -> requests.Session:
        session = requests.Session()
        connect(session, self.minimum_tls, self.proxies)
        return session

    def _get(self, session: requests.Session, url: str, headers: dict[str, str]) -> _Answer:
        # Given with each request: what a session has gives way to REQUESTS_CA_BUNDLE.
        verify = True if self.ca_bundle is None else str(self.ca_bundle)
        try:
            with session.get(
                url, timeout=(10, 30), stream=True, headers=headers, verify=verify
            ) as answer:
                if answer.status_code in (408, 429) or answer.status_code >= 500:
                    rest = retry_after(answer.headers.get("Retry-After")) or 0.0
                    raise _TryAgainError(f"{answer.status_code} {answer.reason}", rest)
                content = answer.raw.read(PLAN_LIMIT + 1, decode_content=True)
        except (requests.exceptions.SSLError, ValueError) as error:
            if hung_up(error):
                raise _TryAgainError(f"TLS: {_reason(error)}") from error
            # Not retried: neither a wrong certificate (or clock) nor a bad URL mends itself.
            reason = f"{url}: {_reason(error)}{_by_which_clock(error)}"
            raise MachineError([Problem("plan", reason)]) from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise _TryAgainError(_reason(error)) from error
        return _Answer(answer.url, answer.status_code, answer.headers, content)


@dataclass(frozen=True)
class _Answer:
    """What a server said; `url` is where redirects ended."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes


def _beside(plan: _Answer) -> str:
    """Return where the signature lies: beside the plan, by the server's own name for it if any."""
    place = urljoin(plan.url, plan.headers.get("Content-Location", plan.url))
    here, there = urlsplit(plan.url), urlsplit(place)
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        there = here
    return urlunsplit(there._replace(path=f"{there.path}.sig"))


def _decoded(text: str | None) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if text else None
    except ValueError:
        return b""  # an answer, and no right one


def _moment(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except ValueError:
        return None


@dataclass(frozen=True)
class CredentialPlan:
    """The systemd credential `bedplate.plan` (SMBIOS type 11, fw_cfg, ESP; systemd.exec(5))."""

    directories: tuple[Path, ...] = field(
        default_factory=lambda: (
            Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")),
            Path("/run/credentials/@system"),
        )
    )

    def describe(self) -> str:
        return f"systemd credential {CREDENTIAL}"

    def read(self) -> Found | None:
        for directory in self.directories:
            path = directory / CREDENTIAL
            try:
                content = path.read_bytes()
                return Found(f"credential {CREDENTIAL}", content, signature_of(path))
            except FileNotFoundError:
                continue
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
                raise MachineError([Problem(str(path), reason)]) from error
        return None


@dataclass(frozen=True)
class MediumPlan:
    """`plan.yaml` on the operator's medium, which is looked for now if it was not there before."""

    medium: Medium
    patience: float = 0.0
    """Seconds to wait for one: nothing else is left to wait for."""

    def describe(self) -> str:
        return f"medium labelled {LABEL} (CD, USB or the one booted from)"

    def read(self) -> Found | None:
        if self.medium.source is None and self.medium.fault is None:
            self.medium.attach(self.patience)
        if self.medium.fault is not None:
            raise self.medium.fault
        if self.medium.source is None:
            return None
        plan = self.medium.place / PLAN
        try:
            with plan.open("rb") as stream:
                content = stream.read(PLAN_LIMIT + 1)
            return Found(f"medium {LABEL}: {PLAN}", content, signature_of(plan))
        except FileNotFoundError:
            return None
        except OSError as error:
            where = f"medium {LABEL}: {PLAN}"
            raise MachineError([Problem(where, f"cannot be read: {error.strerror}")]) from error


def signature_of(plan: Path) -> bytes | None:
    """Return the signature beside a plan in a file, None where there is none."""
    try:
        with plan.with_name(f"{plan.name}.sig").open("rb") as stream:
            return stream.read(SIGNATURE_SIZE + 1)
    except FileNotFoundError:
        return None


# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (openssl-verify(1)).
_OUT_OF_TIME = (9, 10)


def _by_which_clock(error: BaseException) -> str:
    """Return what to add where a certificate's time was judged: by a clock that may be wrong."""
    if not any(getattr(each, "verify_code", None) in _OUT_OF_TIME for each in causes(error)):
        return ""
    return f"; this machine's clock says {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: is it right?"


_BACKOFF = wait_random_exponential(multiplier=1, max=10)


def _pause(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: those the server asks for, if it does."""
    error = state.outcome.exception() if state.outcome else None
    return max(_BACKOFF(state), error.rest if isinstance(error, _TryAgainError) else 0.0)


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("plan: %s; trying again", error)


def _reason(error: BaseException) -> str:
    """Return the innermost cause: requests wraps "connection refused" four times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__
