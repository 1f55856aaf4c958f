"""The address of something in an OCI registry: `oci://registry.example.com:5000/repo:tag@sha256:…`.

`oci://` is TLS, always; `oci+http://` is plain HTTP, for a registry in the provisioning network
whose content is signed or named by digest anyway. Nothing is guessed: no default registry, no
default tag, no falling back from one scheme to the other. `docker://` (for `pack`) is written as
Docker and skopeo write it, with their defaults for Docker Hub.

Source: OCI distribution specification 1.1, "Pulling manifests" (names, tags); image specification
1.1, "Digests".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(
    rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{{1,5}}))?"
)
_LONGEST = 255
"""Characters of host and repository together that every registry takes."""

_DOCKER = "docker://"
_HUB, _HUB_SERVER = "docker.io", "registry-1.docker.io"
EXAMPLE = "registry.example.com/repo"


@dataclass(frozen=True)
class Reference:
    """A manifest in a registry, by tag, by digest, or by both (then the digest decides)."""

    registry: str
    """Host, and port if there is one; IPv6 in brackets."""
    repository: str
    tag: str | None = None
    digest: str | None = None
    """`sha256:` and 64 hexadecimal digits."""
    plain: bool = False
    """Whether it is asked by plain HTTP."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `oci://…` or `oci+http://…`; raise ValueError saying what would be right."""
        for scheme, plain in (("oci://", False), ("oci+http://", True)):
            if text.startswith(scheme):
                return cls._parse(text.removeprefix(scheme), text, plain=plain)
        raise ValueError(f"{_shown(text)} is no address such as oci://{EXAMPLE}:tag")

    @classmethod
    def parse_image(cls, text: str) -> Self:
        """Read what names one container for ever: `registry/repo@sha256:…`.

        `oci://` before it is allowed, `oci+http://` makes it plain HTTP.
        """
        if "@" not in text:
            raise ValueError(
                f"{_shown(text)} has no digest, and a tag may move between check and install: "
                f"write {EXAMPLE}@sha256:…"
            )
        return cls.parse(text if "://" in text else f"oci://{text}")

    @classmethod
    def parse_docker(cls, text: str) -> Self:
        """Read `docker://…` as Docker does: no registry means Docker Hub, `debian` its library."""
        rest = text.removeprefix(_DOCKER)
        if rest == text:
            raise ValueError(f"{_shown(text)} is no address such as {_DOCKER}{EXAMPLE}:tag")
        first, slash, _ = rest.partition("/")
        if not slash or not ({".", ":"} & set(first) or first == "localhost"):
            rest = f"{_HUB}/{rest}"
        hub, _, path = rest.partition("/")
        if hub == _HUB and "/" not in path:
            rest = f"{_HUB}/library/{path}"
        return cls._parse(rest, text, plain=False)

    @classmethod
    def _parse(cls, rest: str, text: str, *, plain: bool) -> Self:
        registry, slash, path = rest.partition("/")
        if not slash or not path:
            raise ValueError(f"{_shown(text)} names no repository, such as {EXAMPLE}:tag")
        named, at, digest = path.partition("@")
        if at and not DIGEST.fullmatch(digest):
            raise ValueError(
                f"{_shown(text)} has the digest {_shown(digest)}, must be sha256: and 64 "
                "hexadecimal digits in lower case"
            )
        repository, colon, tag = named.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise ValueError(
                f"{_shown(text)} has the tag {_shown(tag)}, must be at most 128 letters, digits, "
                ". _ or -, no leading . or -"
            )
        if not _REPOSITORY.fullmatch(repository) or len(rest) > _LONGEST + len(tag) + len(digest):
            raise ValueError(
                f"{_shown(text)} has the repository {_shown(repository)}, must be lower-case "
                f"letters and digits joined by . _ - and /, at most {_LONGEST} characters"
            )
        if not (tag or digest):
            raise ValueError(f"{_shown(text)} has neither a tag nor a digest: write {EXAMPLE}:tag")
        return cls(_registry(registry, text), repository, tag or None, digest or None, plain)

    @property
    def scheme(self) -> str:
        return "oci+http" if self.plain else "oci"

    @property
    def base(self) -> str:
        """The repository's address in the registry's API, without a slash at its end."""
        host = _HUB_SERVER if self.registry == _HUB else self.registry
        return f"{'http' if self.plain else 'https'}://{host}/v2/{self.repository}"

    @property
    def named(self) -> str:
        """What the registry is asked for: the digest where there is one."""
        return self.digest or self.tag or ""

    @property
    def loopback(self) -> bool:
        """Whether what is sent to the registry never leaves this machine."""
        match = _HOST.fullmatch(self.registry)
        host = match["host"].strip("[]") if match else ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def by_digest(self, digest: str) -> Reference:
        """Return the reference of another manifest in the same repository."""
        return Reference(self.registry, self.repository, None, digest, self.plain)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.scheme}://{self.registry}/{self.repository}{tag}{digest}"


def _registry(text: str, whole: str) -> str:
    match = _HOST.fullmatch(text)
    wrong = ValueError(
        f"{_shown(whole)} has the registry {_shown(text)}, must be a host name or an address, "
        "and : with a port if it is not the usual one"
    )
    if match is None or (match["port"] and not 0 < int(match["port"]) < 1 << 16):
        raise wrong
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(match["host"].strip("[]"))
        except ValueError:
            raise wrong from None
    return text.lower()


def _shown(text: str) -> str:
    """Quote for a message: what was pasted by mistake may be long, or no text for a terminal."""
    text = text.encode("unicode_escape").decode()
    return f'"{text}"' if len(text) <= 120 else f'"{text[:117]}…"'
