"""A certificate for one run, made in RAM: whoever asks us verifies none (they cannot know ours)."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = timedelta(days=3650)
_CLOCKS = timedelta(days=3650)
"""A machine's clock may be years wrong, on both sides."""


def context(name: str = "bedplate") -> ssl.SSLContext:
    """Return a server's TLS context with a new key and a certificate signed by that key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - _CLOCKS, datetime(1970, 1, 2, tzinfo=UTC)))
        .not_valid_after(now + _LIFE)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # ssl reads files only; this one has no name and is gone when it is closed.
    with os.fdopen(os.memfd_create("bedplate-certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(pem)
        file.flush()
        made.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return made
