"""Ed25519 over exact bytes: who made this manifest (or this plan).

Keys are PEM and signatures are the 64 bytes of RFC 8032, so that plain openssl does the same:

    openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in NAME.json -sigfile NAME.json.sig
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.errors import ImageError, PlanError, Problem

SIGNATURE_SIZE = 64
_DER = bytes.fromhex("302a300506032b6570032100")
"""What comes before the 32 bytes of a public key in DER (RFC 8410, section 10.1)."""
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True)
class PublicKey:
    """A key that may be trusted. `id` is the first 16 hexadecimal digits of its DER's sha256.

    The id is for people: `openssl pkey -pubin -in KEY.pub -outform DER | sha256sum` shows it.
    """

    id: str
    key: Ed25519PublicKey

    @classmethod
    def of(cls, key: Ed25519PublicKey) -> PublicKey:
        return cls(sha256(_DER + key.public_bytes_raw()).hexdigest()[:16], key)

    @property
    def pem(self) -> bytes:
        body = b64encode(_DER + self.key.public_bytes_raw())
        return b"-----BEGIN PUBLIC KEY-----\n" + body + b"\n-----END PUBLIC KEY-----\n"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.pem == other.pem

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True)
class SigningKey:
    """The private half. It stays where images are made and never reaches a machine."""

    _key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id})"

    @property
    def public(self) -> PublicKey:
        return PublicKey.of(self._key.public_key())

    def sign(self, document: bytes) -> bytes:
        """Return the detached signature: 64 bytes."""
        return self._key.sign(document)


def keygen(private: Path, public: Path) -> PublicKey:
    """Make a key pair: PKCS #8 PEM with mode 0600, and the public key as PEM.

    Raises `PlanError` when either file exists: a lost key is worse than a second attempt.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    there = [path for path in (private, public) if path.exists() or path.is_symlink()]
    if there:
        raise PlanError([Problem(str(path), "is there already, remove it first") for path in there])
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _create(private, pem, 0o600)
    made = PublicKey.of(key.public_key())
    _create(public, made.pem, 0o644)
    return made


def load_signing_key(path: Path) -> SigningKey:
    """Read a private key; raise `PlanError` unless it is an Ed25519 key without passphrase."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise PlanError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PlanError([Problem(str(path), _NOT_A_KEY)]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise PlanError([Problem(str(path), _NOT_A_KEY)])
    return SigningKey(key)


_NOT_A_KEY = "holds no Ed25519 private key in PEM without passphrase, `bedplate keygen` makes one"


def load_public_keys(pem: bytes, where: str) -> tuple[PublicKey, ...]:
    """Return every public key in the PEM text; raise `PlanError` naming `where` if one is not.

    One is needed: a file of trusted keys without a key trusts nobody and is surely a mistake.
    """
    keys = []
    for block in _PUBLIC.findall(pem):
        try:
            key = _public_key(block)
        except (ValueError, UnsupportedAlgorithm):
            raise PlanError([Problem(where, "holds a public key that cannot be read")]) from None
        if not isinstance(key, Ed25519PublicKey):
            raise PlanError([Problem(where, "holds a public key that is not Ed25519")])
        keys.append(PublicKey.of(key))
    if not keys:
        raise PlanError([Problem(where, "holds no public key in PEM")])
    return tuple(dict.fromkeys(keys))


def _public_key(pem: bytes) -> object:
    """Read what `keygen` and openssl write for Ed25519 by itself, anything else with the library.

    That reads many formats, and to load what it needs for them (OpenSSH's and so its ciphers) takes
    longer than to verify a manifest, and 3 MB.
    """
    with suppress(ValueError):
        der = b64decode(b"".join(pem.split(b"\n")[1:-1]), validate=True)
        if der.startswith(_DER) and len(der) == len(_DER) + 32:
            return Ed25519PublicKey.from_public_bytes(der[len(_DER) :])
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(pem)


def load_trusted(paths: Iterable[Path]) -> tuple[PublicKey, ...]:
    """Return the keys of several files, each once."""
    return tuple(
        dict.fromkeys(key for path in paths for key in load_public_keys(_read(path), str(path)))
    )


def verify(document: bytes, signature: bytes, trusted: Sequence[PublicKey]) -> PublicKey:
    """Return the trusted key that signed exactly these bytes, or raise `ImageError`."""
    if len(signature) != SIGNATURE_SIZE:
        raise ImageError(f"signature: has {len(signature)} bytes, Ed25519 has {SIGNATURE_SIZE}")
    for key in trusted:
        try:
            key.key.verify(signature, document)
        except InvalidSignature:
            continue
        return key
    known = ", ".join(key.id for key in trusted) or "none"
    raise ImageError(f"signature: matches no trusted key (trusted: {known})")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise PlanError([Problem(str(path), f"cannot be written: {error.strerror}")]) from None
