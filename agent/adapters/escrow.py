"""Envelopes that only the operator's keys open: CMS, made by openssl(1).

Not by python-cryptography: Debian's version 43 makes AES-128-CBC envelopes only, for RSA only,
with no protection against change. What openssl makes here, `openssl cms -decrypt` of any release
since 3.0 opens (docs/recovery.md).
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from agent.adapters.command import Run
from agent.errors import Problem, StepError
from agent.plan.certificate import parse_certificate
from agent.secret import Secret

WHERE = "encryption.recovery.escrow_to"

# RSA: OAEP with SHA-256, as PKCS#1 v1.5 padding has a history of attacks. Elliptic curves: the key
# derivation's digest, which is SHA-1 if nothing is said.
_RSA_OPTIONS = ("rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256")
_EC_OPTIONS = ("ecdh_kdf_md:sha256",)


def utc_now() -> datetime:
    return datetime.now(UTC)


class OpensslCms:
    """The port `Escrow`."""

    def __init__(self, run: Run, now: Callable[[], datetime] = utc_now) -> None:
        self._run = run
        self._now = now

    def problems(self, certificates: Sequence[str]) -> Iterator[Problem]:
        """Yield why nobody could, or should, be encrypted to."""
        for number, text in enumerate(certificates):
            where = f"{WHERE}[{number}]"
            try:
                certificate = _load(parse_certificate(text))
            except ValueError as error:
                yield Problem(where, str(error))
                continue
            reason = self._out_of_date(certificate)
            if reason:
                yield Problem(where, reason)
        if not certificates:
            yield Problem(WHERE, "names nobody who could open the recovery key's envelope")

    def envelope(self, content: Secret, certificates: Sequence[str]) -> bytes:
        """Encrypt to every certificate (PEM); any one of their keys opens it. Return DER."""
        with tempfile.TemporaryDirectory(prefix="bedplate-escrow-") as directory:
            recipients = list(_recipients(certificates, Path(directory)))
            # PEM, because run() returns text.
            text = self._run(
                "openssl", "cms", "-encrypt", "-binary", "-aes-256-gcm", "-outform", "PEM",
                *recipients,
                secret=content,
            )  # fmt: skip
        return _der(text)

    def _out_of_date(self, certificate: x509.Certificate) -> str | None:
        now = self._now()
        if certificate.not_valid_before_utc > now:
            return (
                f"{_subject(certificate)} is valid from {certificate.not_valid_before_utc:%F}, "
                f"this machine's clock says {now:%F}"
            )
        if certificate.not_valid_after_utc < now:
            return (
                f"{_subject(certificate)} expired on {certificate.not_valid_after_utc:%F}, "
                f"this machine's clock says {now:%F}"
            )
        return None


def _recipients(certificates: Sequence[str], directory: Path) -> Iterator[str | Path]:
    for number, text in enumerate(certificates):
        file = directory / f"{number}.pem"
        file.write_text(text)  # a certificate is public; only the content is secret
        is_rsa = isinstance(_load(text).public_key(), RSAPublicKey)
        yield "-recip"
        yield file
        for option in _RSA_OPTIONS if is_rsa else _EC_OPTIONS:
            yield "-keyopt"  # belongs to the -recip before it (openssl-cms(1))
            yield option


def _load(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode())


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "the certificate"


def _der(pem: str) -> bytes:
    lines = pem.strip().splitlines()
    if lines[:1] != ["-----BEGIN CMS-----"] or lines[-1] != "-----END CMS-----":
        raise StepError("openssl cms: did not print a CMS envelope")
    return base64.b64decode("".join(lines[1:-1]), validate=True)
