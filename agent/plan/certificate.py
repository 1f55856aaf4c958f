"""Certificates of the people who may open a recovery key: checked before a disk is touched.

The envelope is made by `openssl cms -encrypt`; what is refused here either makes it fail or
makes an envelope that is too weak or that nobody can open.
"""

from __future__ import annotations

from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, StrictStr, WithJsonSchema

from agent.plan.part import Kind

RSA_SMALLEST = 3072  # NIST SP 800-57 part 1, table 4: 128 bits of strength
CURVES = ("secp256r1", "secp384r1", "secp521r1")
LONGEST = 32768


def parse_certificate(text: str) -> str:
    """Return one certificate as canonical PEM; raise ValueError where none can be encrypted to."""
    if "PRIVATE KEY" in text:
        raise ValueError("is a private key: give the certificate, and keep the key out of plans")
    if text.count("-----BEGIN") != 1 or len(text) > LONGEST:
        raise ValueError("is not one certificate in PEM (-----BEGIN CERTIFICATE-----)")
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
        key = certificate.public_key()
        reason = _unfit_key(key) or _unfit_use(certificate, isinstance(key, RSAPublicKey))
    except Exception as error:
        # cryptography raises ValueError, UnsupportedAlgorithm, TypeError and more on hostile DER.
        raise ValueError(f"is not a certificate in PEM: {_first_line(error)}") from None
    if reason:
        raise ValueError(reason)
    return certificate.public_bytes(Encoding.PEM).decode()


def _unfit_key(key: object) -> str | None:
    if isinstance(key, RSAPublicKey):
        if key.key_size < RSA_SMALLEST:
            return f"has an RSA key of {key.key_size} bits, {RSA_SMALLEST} are needed"
        return None
    if isinstance(key, EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            return f"has a key on {key.curve.name}: use P-256, P-384 or P-521"
        return None
    return "has a key that nothing can be encrypted to: use RSA or a NIST curve"


def _unfit_use(certificate: x509.Certificate, rsa: bool) -> str | None:
    extensions = {extension.oid: extension.value for extension in certificate.extensions}
    constraints = extensions.get(x509.BasicConstraints.oid)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        return (
            "is the certificate of an authority: escrow to a key of its own (openssl req -x509 "
            "-addext basicConstraints=critical,CA:FALSE)"
        )
    usage = extensions.get(x509.KeyUsage.oid)
    if not isinstance(usage, x509.KeyUsage):
        return None
    if rsa and not usage.key_encipherment:
        return "may not be used for this: its key usage lacks keyEncipherment"
    if not rsa and not usage.key_agreement:
        return "may not be used for this: its key usage lacks keyAgreement"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:120].lower()


Certificate = Annotated[
    StrictStr,
    Kind("certificate (PEM)"),
    AfterValidator(parse_certificate),
    WithJsonSchema({"type": "string", "pattern": "-----BEGIN CERTIFICATE-----"}),
]
