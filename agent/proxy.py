"""Forward proxies: which one a host is asked through, and the credentials it wants.

Where they come from: the plan's `image.proxy`, the live image's kernel command line, and, only for
commands that an operator types, the environment that curl reads too.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Self
from urllib.parse import unquote_to_bytes, urlsplit

from agent.secret import Secret

RIGHT = "must be such as http://proxy.example.com:3128"


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy. Its text is the address without credentials, fit for logs."""

    host: str
    port: int
    credentials: Secret | None = None
    """`user:password`, as RFC 7617 has it before base64."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `http://[user:password@]host[:port]`; port 80 unless it says another (RFC 9110).

        Raises `ValueError`, whose text never quotes what was there: it may hold a password.
        """
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError(f"is not a proxy's URL, {RIGHT}")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(f"is not a proxy's URL, {RIGHT}") from None
        if parts.scheme != "http" or not host or port == 0:
            raise ValueError(f"is not the URL of an http proxy, {RIGHT}")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"has a path, which a proxy does not, {RIGHT}")
        if "@" not in parts.netloc:
            return cls(host, port or 80)
        user = unquote_to_bytes(parts.username or "")
        if b":" in user:
            raise ValueError("has a colon in the user's name, which HTTP cannot say (RFC 7617)")
        return cls(host, port or 80, Secret(user + b":" + unquote_to_bytes(parts.password or "")))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy, and nobody behind it, is told."""
        if self.credentials is None:
            return {}
        return {"Proxy-Authorization": f"Basic {b64encode(self.credentials.value).decode()}"}


@dataclass(frozen=True)
class Proxies:
    """Which proxy is used for what. `direct` are hosts that are asked without one.

    An entry of `direct` is a host, a domain with everything below it, either with a port, an
    address, a network (192.0.2.0/24), or `*` for all: the rules of curl's no_proxy.
    """

    http: Proxy | None = None
    https: Proxy | None = None
    direct: Sequence[str] = field(default=())

    @classmethod
    def through(cls, proxy: Proxy | None, direct: Sequence[str] = ()) -> Self:
        return cls(proxy, proxy, tuple(direct))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read http_proxy, https_proxy, all_proxy and no_proxy; raise `ValueError` naming one.

        HTTP_PROXY in capitals is not read, as curl does not: a CGI program's client could set it.
        """

        def proxy(*names: str) -> Proxy | None:
            for name in names:
                if text := environment.get(name):
                    try:
                        return Proxy.parse(text if "://" in text else f"http://{text}")
                    except ValueError as error:
                        raise ValueError(f"{name}: {error}") from None
            return None

        both = ("all_proxy", "ALL_PROXY")
        direct = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
        return cls(
            proxy("http_proxy", *both),
            proxy("https_proxy", "HTTPS_PROXY", *both),
            tuple(entry.strip() for entry in direct.split(",") if entry.strip()),
        )

    def to(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy to ask through, None to ask the host itself."""
        proxy = self.https if scheme == "https" else self.http
        if proxy is None or any(_covers(entry, host, port) for entry in self.direct):
            return None
        return proxy


DIRECT = Proxies()


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    host, entry = host.lower().rstrip("."), entry.lower()
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        try:
            return address in ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            pass
    name, _, number = entry.rpartition(":")
    if name and number.isdigit():
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]").lstrip(".").rstrip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))
