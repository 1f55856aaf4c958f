"""The places a plan is read from: a URL, a systemd credential, a labelled read-only medium."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import requests
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)
from urllib3.exceptions import HTTPError

from agent.adapters.command import Run
from agent.errors import CommandError, MachineError, Problem
from agent.find import PLAN_LIMIT, Found

log = logging.getLogger(__name__)

CREDENTIAL = "bedplate.plan"
LABEL = "BEDPLATE"
PATIENCE = 180.0
"""Seconds to wait for the network and the server before giving up: DHCP behind a spanning tree that
is still learning takes 50."""


class _TryAgainError(Exception):
    """The server or the way to it is not there yet."""


@dataclass(frozen=True)
class UrlPlan:
    """`bedplate.plan=URL` or `bedplate.server=URL` on the kernel command line.

    `url` is None when the command line names none.
    """

    url: str | None
    ca_bundle: Path | None = None
    patience: float = PATIENCE

    def describe(self) -> str:
        return self.url or "kernel command line (no bedplate.plan= or bedplate.server=)"

    def read(self) -> Found | None:
        if self.url is None:
            return None
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type(_TryAgainError),
                wait=wait_random_exponential(multiplier=1, max=10),
                stop=stop_after_delay(self.patience),
                before_sleep=_tell,
                reraise=True,
            ):
                with attempt:
                    return Found(self.url, self._get(self.url))
        except _TryAgainError as error:
            raise MachineError(
                [Problem("plan", f"{self.url}: no answer in {self.patience:.0f} s: {error}")]
            ) from error
        raise AssertionError("Retrying ends by returning or raising")

    def _get(self, url: str) -> bytes:
        verify = True if self.ca_bundle is None else str(self.ca_bundle)
        try:
            with requests.get(url, timeout=(10, 30), stream=True, verify=verify) as answer:
                if answer.status_code in (408, 429) or answer.status_code >= 500:
                    raise _TryAgainError(f"{answer.status_code} {answer.reason}")
                content = answer.raw.read(PLAN_LIMIT + 1, decode_content=True)
        except (requests.exceptions.SSLError, ValueError) as error:
            # Not retried: neither a wrong certificate (or clock) nor a bad URL mends itself.
            raise MachineError([Problem("plan", f"{url}: {_reason(error)}")]) from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise _TryAgainError(_reason(error)) from error
        if answer.status_code != 200:
            text = content[:300].decode(errors="replace").strip()
            raise MachineError(
                [Problem("plan", f"{url}: the server says {answer.status_code}: {text}")]
            )
        return content


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
                return Found(f"credential {CREDENTIAL}", path.read_bytes())
            except FileNotFoundError:
                continue
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
                raise MachineError([Problem(str(path), reason)]) from error
        return None


@dataclass(frozen=True)
class MediumPlan:
    """`plan.yaml` on a medium labelled BEDPLATE, mounted read-only.

    Only media that are not targets count: optical, USB or removable ones. A stale label on an
    internal disk is never believed.
    """

    run: Run
    device: Path = Path("/dev/disk/by-label") / LABEL

    def describe(self) -> str:
        return f"medium labelled {LABEL}"

    def read(self) -> Found | None:
        if not self.device.exists():
            return None
        try:
            content = self._content() if self._detachable() else None
        except (CommandError, OSError) as error:
            raise MachineError([Problem(f"medium {LABEL}", str(error))]) from error
        return None if content is None else Found(f"medium {LABEL}: plan.yaml", content)

    def _content(self) -> bytes | None:
        with tempfile.TemporaryDirectory(prefix="bedplate-medium-") as place:
            self.run("mount", "-o", "ro,nodev,nosuid,noexec", self.device, place)
            try:
                plan = Path(place) / "plan.yaml"
                if not plan.is_file():
                    return None
                with plan.open("rb") as stream:
                    return stream.read(PLAN_LIMIT + 1)
            finally:
                self.run("umount", place)

    def _detachable(self) -> bool:
        kernel_name = self.device.resolve().name
        properties = self.run("udevadm", "info", "--query=property", f"/dev/{kernel_name}")
        return any(
            line in {"ID_CDROM=1", "ID_BUS=usb", "ID_DRIVE_THUMB=1"}
            for line in properties.splitlines()
        )


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("plan: %s; trying again", error)


def _reason(error: BaseException) -> str:
    """Return the innermost cause: requests wraps "connection refused" four times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__
