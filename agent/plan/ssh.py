"""Public keys in the form of authorized_keys(5)."""

from __future__ import annotations

import base64
import binascii
import itertools
from typing import Annotated

from pydantic import AfterValidator, StrictStr, WithJsonSchema

from agent.plan.part import Kind, shown

KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


def parse_authorized_key(text: str) -> str:
    """Return one line of authorized_keys: [options] type base64 [comment]."""
    if "PRIVATE KEY" in text:
        raise ValueError("is a private key: give the line of the .pub file, and change that key")
    line = text.strip()
    if not line.isprintable() or len(line) > 16384:
        raise ValueError("is not one line of printable text: give the line of the .pub file")
    words = line.split()
    for type_, blob in itertools.pairwise(words):
        if type_ in KEY_TYPES and _type_inside(blob) == type_:
            return line
    raise ValueError(f"{shown(text)} is not a public key such as ssh-ed25519 AAAAC3…")


def _type_inside(blob: str) -> str | None:
    # RFC 4253 section 6.6: the key begins with its type, as a length of four bytes and the name.
    try:
        key = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return None
    length = int.from_bytes(key[:4], "big")
    return key[4 : 4 + length].decode("ascii", "replace") if len(key) > 4 + length else None


AuthorizedKey = Annotated[
    StrictStr,
    Kind("public key (a line of authorized_keys)"),
    AfterValidator(parse_authorized_key),
    WithJsonSchema({"type": "string", "examples": ["ssh-ed25519 AAAAC3… admin@example.com"]}),
]
