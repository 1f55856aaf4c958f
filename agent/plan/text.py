"""The kinds of text a plan is made of: MAC, host name, URL, mount point, address, time.

Each parser returns the canonical form or raises ValueError saying what is there and what is right.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    StrictStr,
    WithJsonSchema,
)

from agent.plan.part import Kind, from_text, shown
from agent.proxy import Proxy
from agent.reference import Reference
from agent.secret import Secret

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
HOST_NAME_MAX = 64  # what Linux keeps: sethostname(2)
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}")
_PATH = re.compile(r"(?:/[^/\x00-\x1f\x7f]+)+|/")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,4096}=*")  # RFC 6750 section 2.1, b64token
URL_LONGEST = 2048
HIDDEN = "(hidden)"  # not a token, so that a plan shown without its secrets is refused as one

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def parse_mac(text: str) -> str:
    """Return a unicast MAC address in lower case with colons."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a MAC address such as 52:54:00:12:34:56")
    mac = text.lower().replace("-", ":")
    if int(mac[:2], 16) & 1:
        raise ValueError(f"{shown(text)} is a group address, which no interface has of its own")
    if mac == "00:00:00:00:00:00":
        raise ValueError(f"{shown(text)} is the address of no interface")
    return mac


def parse_host_name(text: str) -> str:
    """Return a host name after RFC 1123 that Linux can keep (64 characters)."""
    if len(text) > HOST_NAME_MAX:
        raise ValueError(f"has {len(text)} characters, Linux keeps at most {HOST_NAME_MAX}")
    if not _HOST_NAME.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is not a host name: letters, digits and inner hyphens, parts of at "
            "most 63 characters joined by dots"
        )
    if text.rpartition(".")[2].isdigit():
        raise ValueError(f"{shown(text)} reads as an address: the last part needs a letter")
    return text


def parse_url(text: str) -> str:
    """Return an http or https URL that names a host and carries no credentials."""
    if len(text) > URL_LONGEST:
        raise ValueError(f"has {len(text)} characters, a URL may have {URL_LONGEST}")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{shown(text)} is not a URL: percent-encode what is not plain ASCII")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{shown(text)} is not a URL: {str(error).lower()}") from None
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        raise ValueError(f"{shown(text)} is not a URL such as https://images.example.com/x.json")
    if "@" in parts.netloc:
        raise ValueError("carries a user or password, which would end up in logs: leave it out")
    if parts.fragment:
        raise ValueError(f"{shown(text)} has a fragment, which no server ever sees: drop the #")
    return text


def parse_image_url(text: str) -> str:
    """Return where a manifest lies: a web server, a medium in the machine, or an OCI registry."""
    if text.startswith(("oci:", "oci+http:")):
        return str(Reference.parse(text))
    if not text.startswith("file:"):
        return parse_url(text)
    right = "write it as file:///run/media/images/x.json"
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a URL: {right}") from None
    path = unquote(parts.path)
    if len(text) > URL_LONGEST or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{shown(text)} is not a URL: percent-encode what is not plain ASCII")
    if parts.netloc or parts.query or parts.fragment or "\0" in path:
        raise ValueError(f"{shown(text)} names more than a file of this machine: {right}")
    if not path.startswith("/") or path.endswith("/") or {".", ".."} & set(path.split("/")):
        raise ValueError(f"{shown(text)} does not name a file: {right}")
    return text


def parse_container(text: str) -> str:
    """Return the address of a container by its digest: registry.example.com/repo@sha256:…."""
    return str(Reference.parse_image(text))


def parse_proxy(value: object) -> Proxy:
    """Return a proxy; the message never quotes what was there, which may hold a password."""
    if isinstance(value, Proxy):
        return value
    if not isinstance(value, str):
        raise ValueError("is not text: write it in quotes")
    if HIDDEN in value:
        raise ValueError("has its password hidden: it was printed for people")
    return Proxy.parse(value)


def parse_no_proxy(text: str) -> str:
    """Return a host, a domain, an address, a network, or `*`: what `Proxies` understands."""
    if re.fullmatch(r"\*|[A-Za-z0-9._:/\[\]-]{1,253}", text):
        return text
    raise ValueError(f"{shown(text)} is not a host, an address or a network such as 192.0.2.0/24")


def parse_path(text: str) -> str:
    """Return an absolute path without `.`, `..`, doubled or trailing slashes."""
    if not _PATH.fullmatch(text) or {".", ".."} & set(text.split("/")) or len(text) > 1024:
        raise ValueError(f"{shown(text)} is not an absolute path such as /var/log")
    return text


def parse_word(text: str) -> str:
    """Return a non-empty line of printable text without blanks at its ends."""
    if not _PRINTABLE.fullmatch(text) or text != text.strip():
        raise ValueError(f"{shown(text)} must be a line of 1 to 256 printable characters")
    return text


def parse_uuid(text: str) -> uuid.UUID:
    """Return the UUID of 36 characters, five groups of hexadecimal digits."""
    if re.fullmatch(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", text):
        return uuid.UUID(text)
    raise ValueError(f"{shown(text)} is not a UUID: make one with uuidgen")


def parse_time(text: str) -> datetime:
    """Return a point in time, in UTC; the text must say its offset (RFC 3339)."""
    right = "such as 2026-12-01T00:00:00Z"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a time {right}") from None
    if time.tzinfo is None:
        raise ValueError(f"{shown(text)} does not say its time zone: write a time {right}")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{shown(text)} is not a time {right}") from None


def parse_token(value: object) -> Secret:
    """Return a bearer token; the message never quotes what was there."""
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("is not text: write it in quotes")
    if not _TOKEN.fullmatch(value):
        raise ValueError("is not a bearer token: letters, digits and ._~+/- with = at the end")
    return Secret(value)


def parse_secret_url(value: object) -> Secret:
    """Return a URL whose query is a secret; the message never quotes what was there."""
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("is not text: write it in quotes")
    try:
        parse_url(value)
    except ValueError:
        right = "https://foreman.example.com/unattended/built?token=…"
        raise ValueError(f"is not a URL such as {right}") from None
    return Secret(value)


def show_time(time: datetime) -> str:
    """Return a point in time as the plan writes it: 2026-12-01T00:00:00Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def show_token(token: Secret, info: SerializationInfo) -> str:
    """Return what stands for a token; itself only where the dump's context asks for secrets."""
    return token.text if info.context and info.context.get("secrets") else HIDDEN


def show_proxy(proxy: Proxy, info: SerializationInfo) -> str:
    """Return the proxy's URL; its credentials only where the dump's context asks for secrets."""
    if proxy.credentials is None:
        return str(proxy)
    if not (info.context and info.context.get("secrets")):
        return str(proxy).replace("//", f"//{HIDDEN}@", 1)
    user, _, password = proxy.credentials.text.partition(":")
    return str(proxy).replace("//", f"//{quote(user, safe='')}:{quote(password, safe='')}@", 1)


def parse_interface(text: str) -> Interface:
    """Return an address with its prefix length, 192.0.2.7/24 or 2001:db8::7/64."""
    address, slash, prefix = text.partition("/")
    try:
        if slash and prefix.isascii() and prefix.isdigit() and "%" not in address:
            return ipaddress.ip_interface(text)
    except ValueError:
        pass
    raise ValueError(f"{shown(text)} is not an address with prefix such as 192.0.2.7/24")


def parse_address(text: str) -> Address:
    """Return an IPv4 or IPv6 address."""
    try:
        if "%" not in text:
            return ipaddress.ip_address(text)
    except ValueError:
        pass
    raise ValueError(f"{shown(text)} is not an address such as 192.0.2.1 or 2001:db8::1")


def _schema(format_: str | None = None, **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **({"format": format_} if format_ else {}), **more})


Mac = Annotated[
    StrictStr, Kind("MAC address"), AfterValidator(parse_mac), _schema(pattern=f"^{_MAC.pattern}$")
]
HostName = Annotated[
    StrictStr,
    Kind("host name"),
    AfterValidator(parse_host_name),
    _schema(pattern=f"^{_HOST_NAME.pattern}$", maxLength=HOST_NAME_MAX),
]
Url = Annotated[
    StrictStr, Kind("URL (http or https)"), AfterValidator(parse_url), _schema(pattern="^https?://")
]
ImageUrl = Annotated[
    StrictStr,
    Kind("URL (http, https, file or oci)"),
    AfterValidator(parse_image_url),
    _schema(pattern="^(https?://|file:///|oci(\\+http)?://)"),
]
ContainerAddress = Annotated[
    StrictStr,
    Kind("container by digest"),
    AfterValidator(parse_container),
    _schema(pattern="^[^@]+@sha256:[0-9a-f]{64}$"),
]
ProxyUrl = Annotated[
    Proxy,
    Kind("URL of a proxy (http)"),
    PlainValidator(parse_proxy),
    PlainSerializer(show_proxy),
    _schema(writeOnly=True, pattern="^http://"),
]
NoProxy = Annotated[
    StrictStr,
    Kind("host, address or network"),
    AfterValidator(parse_no_proxy),
    _schema(minLength=1, maxLength=253),
]
AbsolutePath = Annotated[
    StrictStr, Kind("absolute path"), AfterValidator(parse_path), _schema(pattern="^/")
]
Word = Annotated[
    StrictStr, Kind("text"), AfterValidator(parse_word), _schema(minLength=1, maxLength=256)
]
Uuid = Annotated[
    uuid.UUID,
    Kind("UUID"),
    PlainValidator(from_text(uuid.UUID, parse_uuid)),
    PlainSerializer(str),
    _schema("uuid"),
]
Time = Annotated[
    datetime,
    Kind("time (RFC 3339)"),
    PlainValidator(from_text(datetime, parse_time)),
    PlainSerializer(show_time),
    _schema("date-time"),
]
Token = Annotated[
    Secret,
    Kind("bearer token"),
    PlainValidator(parse_token),
    PlainSerializer(show_token),
    _schema(writeOnly=True, pattern=f"^{_TOKEN.pattern}$"),
]
SecretUrl = Annotated[
    Secret,
    Kind("URL that holds a token"),
    PlainValidator(parse_secret_url),
    PlainSerializer(show_token),
    _schema(writeOnly=True, pattern="^https?://"),
]
InterfaceAddress = Annotated[
    Interface,
    Kind("address with prefix length"),
    PlainValidator(from_text(Interface, parse_interface)),
    PlainSerializer(str),
    _schema(examples=["192.0.2.7/24"]),
]
IpAddress = Annotated[
    Address,
    Kind("IP address"),
    PlainValidator(from_text(Address, parse_address)),
    PlainSerializer(str),
    _schema(examples=["192.0.2.1"]),
]
