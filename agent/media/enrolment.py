"""Secure Boot variables as bytes: lists of certificates, and updates that firmware accepts.

UEFI 2.10: EFI_SIGNATURE_LIST is section 32.4.1, EFI_VARIABLE_AUTHENTICATION_2 section 8.2.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

Variable = Literal["PK", "KEK", "db"]
VARIABLES: tuple[Variable, ...] = ("PK", "KEK", "db")

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
"""EFI_GLOBAL_VARIABLE: the vendor of PK and KEK."""
SECURITY = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
"""EFI_IMAGE_SECURITY_DATABASE_GUID: the vendor of db."""
ATTRIBUTES = 0x27
"""Non-volatile, boot service, runtime, time-based authenticated write."""
_X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_PKCS7 = UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
_REVISION, _TYPE_GUID = 0x0200, 0x0EF1  # WIN_CERTIFICATE, section 32.2.4


@dataclass(frozen=True)
class Signer:
    """Who may change a variable: PK itself and KEK by PK's key, db by KEK's."""

    certificate: x509.Certificate
    key: RSAPrivateKey


def vendor(variable: Variable) -> UUID:
    """Return the namespace a variable lives in."""
    return SECURITY if variable == "db" else GLOBAL


def signature_list(certificates: Iterable[x509.Certificate], owner: UUID) -> bytes:
    """Return the variable's content: one list for each certificate, since their sizes differ."""
    parts = []
    for certificate in certificates:
        der = certificate.public_bytes(Encoding.DER)
        size = 16 + len(der)
        parts.append(_X509.bytes_le + struct.pack("<III", 28 + size, 0, size))
        parts.append(owner.bytes_le + der)
    return b"".join(parts)


def update(variable: Variable, content: bytes, signer: Signer, moment: datetime) -> bytes:
    """Return a signed update (an .auth file): header, then the content.

    `moment` must be later than that of the update before it, which firmware remembers.
    """
    time = _efi_time(moment)
    name = variable.encode("utf-16-le")
    signed = name + vendor(variable).bytes_le + struct.pack("<I", ATTRIBUTES) + time + content
    builder = pkcs7.PKCS7SignatureBuilder().set_data(signed)
    wrapped = builder.add_signer(signer.certificate, signer.key, SHA256()).sign(
        Encoding.DER,
        [
            pkcs7.PKCS7Options.DetachedSignature,
            pkcs7.PKCS7Options.NoAttributes,
            pkcs7.PKCS7Options.Binary,
        ],
    )
    signature = _unwrapped(wrapped)
    certificate = struct.pack("<IHH", 24 + len(signature), _REVISION, _TYPE_GUID)
    return time + certificate + _PKCS7.bytes_le + signature + content


def _efi_time(moment: datetime) -> bytes:
    """Return EFI_TIME with everything finer than a second zero, as the specification wants it."""
    utc = moment.astimezone(UTC)
    fields = (utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second)
    return struct.pack("<HBBBBBxIhBx", *fields, 0, 0, 0)


def _unwrapped(content_info: bytes) -> bytes:
    """Return the SignedData inside a ContentInfo (RFC 2315, section 7): firmware wants no more."""
    outer, _ = _element(content_info, 0)
    _, after_type = _element(content_info, outer)
    inner, _ = _element(content_info, after_type)
    return content_info[inner:]


def _element(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the DER element at `at` begins, and where it ends."""
    length, begin = der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + count], "big"), begin + count
    return begin, begin + length
