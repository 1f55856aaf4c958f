"""What a Tang server says about its keys: a JWS over a JWK set (RFC 7515, RFC 7517)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from agent.plan.part import Kind, shown, text_required

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
# RFC 7638 section 3.2 and RFC 8037 section 2: the members a thumbprint is made of.
_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}
LONGEST = 65536


@dataclass(frozen=True)
class Advertisement:
    """A signed advertisement, kept as the canonical JSON text of its JWS."""

    text: str

    def jws(self) -> dict[str, Any]:
        """Return the JWS object, as Clevis takes it for `adv`."""
        jws: dict[str, Any] = json.loads(self.text)
        return jws

    def keys(self) -> tuple[dict[str, Any], ...]:
        """Return the advertised JSON web keys."""
        return _keys(self.jws())

    def thumbprints(self) -> tuple[str, ...]:
        """Return the SHA-256 thumbprints of the signing keys."""
        signing = (key for key in self.keys() if "verify" in key.get("key_ops", ()))
        return tuple(thumbprint(key) for key in signing if key.get("kty") in _THUMBPRINT_MEMBERS)

    def signed_by(self, thumbprint_: str) -> bool:
        return thumbprint_ in self.thumbprints()


def thumbprint(key: dict[str, Any]) -> str:
    """Return the SHA-256 thumbprint of a JSON web key (RFC 7638)."""
    members = {name: key.get(name) for name in _THUMBPRINT_MEMBERS[key["kty"]]}
    digest = hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def parse_advertisement(value: object) -> Advertisement:
    """Return the advertisement of a mapping or of JSON text; raise ValueError where it is none."""
    if isinstance(value, Advertisement):
        return value
    if isinstance(value, str):
        value = _json(value)
    if not isinstance(value, dict):
        raise text_required()
    if not {"payload"} <= value.keys() <= {"payload", "protected", "signature", "signatures"}:
        raise ValueError("is not what a Tang server's /adv answers: payload and signature")
    signatures = value.get("signatures", [value])
    if (
        not isinstance(signatures, list)
        or not signatures
        or not all(map(_is_signature, signatures))
    ):
        raise ValueError("is not signed: copy what the Tang server's /adv answers whole")
    operations = {operation for key in _keys(value) for operation in key["key_ops"]}
    if not {"verify", "deriveKey"} <= operations:
        raise ValueError("has no signing key or no exchange key: copy what /adv answers whole")
    return Advertisement(json.dumps(value, sort_keys=True, separators=(",", ":")))


def _json(text: str) -> object:
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text)} characters, an advertisement may have {LONGEST}")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(
            f"{shown(text)} is not JSON: copy what the server's /adv answers"
        ) from None
    return value


def _is_signature(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) and _BASE64URL.fullmatch(value[name])
        for name in ("protected", "signature")
    )


def _keys(jws: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    wrong = ValueError("has a payload that is not a set of keys: copy what /adv answers whole")
    payload = jws["payload"]
    if not isinstance(payload, str) or not _BASE64URL.fullmatch(payload):
        raise wrong
    try:
        decoded = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise wrong from None
    keys = decoded.get("keys") if isinstance(decoded, dict) else None
    if not isinstance(keys, list) or not all(map(_is_key, keys)):
        raise wrong
    return tuple(keys)


def _is_key(key: object) -> bool:
    if not isinstance(key, dict) or not isinstance(key.get("kty"), str):
        return False
    operations = key.get("key_ops")
    return isinstance(operations, list) and all(isinstance(name, str) for name in operations)


Advertised = Annotated[
    Advertisement,
    Kind("advertisement (mapping, or JSON text)"),
    PlainValidator(parse_advertisement),
    PlainSerializer(Advertisement.jws),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "required": ["payload"]},
                {"type": "string", "contentMediaType": "application/jose+json"},
            ]
        }
    ),
]
