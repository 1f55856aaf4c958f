"""Tokens that the server mints: one to fetch a plan with, one to write its events with.

A token is a MAC over the plan's id under a key in the database. So there is no list of tokens that
could leak, every server that shares the database knows them, and the order that follows (a plan
with a new id) has other ones. docs/serve.md says who needs which.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from agent.secret import Secret
from agent.server.plans import PlanFile
from agent.server.refusal import RefusalError

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Tokens:
    """Who must show what.

    With `mint` plans get a token as they are served. With `required` nothing is open to whoever
    merely knows a MAC address.
    """

    key: Secret
    mint: bool = False
    required: bool = False

    def boot(self, plan: str) -> Secret:
        """Return the token that a machine fetches its plan with, from its boot URL."""
        return self._made("boot", plan)

    def report(self, plan: str) -> Secret:
        """Return the token that a machine writes events with, from its plan."""
        return self._made("report", plan)

    def may_read(self, found: PlanFile, token: str) -> bool:
        """Return whether a plan may be fetched with this token, in constant time."""
        if not self.required:
            return True
        return _same(token, self.boot(found.id)) | _same(token, self.report(found.id))

    def may_write(self, found: PlanFile, token: str) -> bool:
        """Return whether events of a plan may be written with this token, in constant time."""
        minted = self.mint and not found.signed
        if not (found.tokens or minted or self.required):
            return True
        written = bool(found.tokens) and found.admits(token)
        return written | (self.mint and _same(token, self.report(found.id)))

    def served(self, found: PlanFile, host: str) -> bytes:
        """Return the plan as it is served to who calls this server `host` (HOST[:PORT]).

        Report entries of type http that name this server and have no token get one, if tokens are
        minted and the plan has no signature of its own, which would not fit any more.
        """
        if not self.mint or found.signed or not host:
            return found.content
        return with_token(found.content, host, self.report(found.id))

    def _made(self, purpose: str, plan: str) -> Secret:
        text = f"bedplate {purpose} token\n{plan}".encode()
        made = hmac.digest(self.key.value, text, hashlib.sha256)
        return Secret(base64.urlsafe_b64encode(made).rstrip(b"="))


def with_token(content: bytes, host: str, token: Secret) -> bytes:
    """Return a plan's text with `token` in the entries under `report` that lack one.

    Only entries of type http whose URL is at `host` are changed, and nothing else of the text.
    Raises `RefusalError` 409 where the text is so odd that another document would come of it.
    """
    text = content.decode("utf-8")
    places = [
        entry
        for entry in _entries(yaml.compose(text, yaml.SafeLoader))
        if _at(_fields(entry), host) and "token" not in _fields(entry)
    ]
    for entry in sorted(places, key=lambda node: node.start_mark.index, reverse=True):
        at = entry.start_mark.index
        if entry.flow_style:
            text = f'{text[: at + 1]}token: "{token.text}", {text[at + 1 :]}'
        else:
            text = f'{text[:at]}token: "{token.text}"\n{" " * entry.start_mark.column}{text[at:]}'
    if places and not _differs_by_tokens(content.decode("utf-8"), text):
        message = "report: no token can be put into this text, write it as a plain list"
        raise RefusalError(409, message)
    return text.encode("utf-8")


def _entries(root: Any) -> list[yaml.MappingNode]:
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if key.value == "report" and isinstance(value, yaml.SequenceNode):
            return [entry for entry in value.value if isinstance(entry, yaml.MappingNode)]
    return []


def _fields(entry: yaml.MappingNode) -> dict[str, str]:
    return {key.value: value.value for key, value in entry.value if isinstance(value.value, str)}


def _at(fields: dict[str, str], host: str) -> bool:
    if fields.get("type") != "http":
        return False
    try:
        parts = urlsplit(fields.get("url", ""))
        here = urlsplit(f"{parts.scheme}://{host}")
        default = _PORTS.get(parts.scheme)
        return (parts.hostname, parts.port or default) == (here.hostname, here.port or default)
    except ValueError:
        return False


def _differs_by_tokens(before: str, after: str) -> bool:
    try:
        old, new = yaml.load(before, yaml.BaseLoader), yaml.load(after, yaml.BaseLoader)  # noqa: S506  # knows no types but text
    except yaml.YAMLError:
        return False
    for entries in (old["report"], new["report"]):
        for entry in entries:
            entry.pop("token", None)
    return bool(old == new)


def _same(token: str, wanted: Secret) -> bool:
    given = hashlib.sha256(token.encode("utf-8", "replace")).digest()
    return hmac.compare_digest(given, hashlib.sha256(wanted.value).digest())
