"""An operator's own keys for Secure Boot: made, kept as files, and the files firmware takes.

PK owns the machine, KEK may change db, db says who may sign what is booted. Only db's key is used
from day to day; the two others belong in a safe.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from agent.errors import PlanError, Problem
from agent.media.enrolment import VARIABLES, Signer, Variable, signature_list, update

BITS = 2048
"""What every firmware takes: the specification demands no larger keys (UEFI 2.10, 32.5.3)."""
YEARS = 20
"""Firmware does not look at dates; sbverify and auditors do."""
_SIGNED_BY: dict[Variable, Variable] = {"PK": "PK", "KEK": "PK", "db": "KEK"}


def make(directory: Path, name: str, also: Sequence[Path]) -> list[Path]:
    """Make PK, KEK and db in a directory: key, certificate (PEM, DER) and enrolment file of each.

    `also` are certificates (PEM or DER) that go into db beside the own one, as those that option
    ROMs are signed by. Raises `PlanError` where a file is there already or is no certificate.
    Returns what was made.
    """
    others = [read_certificate(path) for path in also]
    made = [directory / f"{each}.{kind}" for each in VARIABLES for kind in _KINDS]
    there = [path for path in made if path.exists() or path.is_symlink()]
    if there:
        raise PlanError([Problem(str(path), "is there already, remove it first") for path in there])
    moment, owner = datetime.now(UTC).replace(microsecond=0), uuid4()
    signers = {each: _signer(f"{name} {each}", moment) for each in VARIABLES}
    for each, signer in signers.items():
        listed = [signer.certificate, *(others if each == "db" else ())]
        authenticated = update(
            each, signature_list(listed, owner), signers[_SIGNED_BY[each]], moment
        )
        pem = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _create(directory / f"{each}.key", pem, 0o600)
        certificate = signer.certificate
        _create(directory / f"{each}.crt", certificate.public_bytes(Encoding.PEM), 0o644)
        _create(directory / f"{each}.cer", certificate.public_bytes(Encoding.DER), 0o644)
        _create(directory / f"{each}.auth", authenticated, 0o644)
    return made


_KINDS = ("key", "crt", "cer", "auth")


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate, PEM or DER; raise `PlanError` where it is none."""
    content = path.read_bytes()
    try:
        if b"-----BEGIN" in content:
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except ValueError:
        raise PlanError([Problem(str(path), "holds no certificate, PEM or DER")]) from None


def _signer(name: str, moment: datetime) -> Signer:
    key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=1))
        .not_valid_after(moment + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    return Signer(certificate, key)


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        raise PlanError([Problem(str(path), f"cannot be written: {error.strerror}")]) from None
