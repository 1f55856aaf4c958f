"""What fetching asks of OCI registries: where an image's chunks lie, and who may have them.

`agent.oci.registries.Registries` is the real one; the distribution specification is known there and
nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agent.payload.client import Client
    from agent.payload.options import FetchOptions

SCHEMES = frozenset({"oci", "oci+http"})
"""Of addresses that only a registry's client can read."""


class Registry(Protocol):
    """Thread-safe. What goes wrong is raised as `agent.payload.trouble.Trouble`."""

    def chunks(self, url: str) -> str:
        """Return where chunks lie beside an image at `url`: an http(s) URL with `{sha256}` in it.

        Pure: asks nobody.
        """

    def manifest(self, url: str, client: Client, seconds: float) -> tuple[bytes, bytes]:
        """Return the manifest and the signature that were pushed to `url`, not verified yet."""

    def authorization(self, url: str) -> str | None:
        """Return the Authorization header that this http(s) URL may see, if there is one."""

    def renew(self, url: str, challenge: str, shown: str | None, options: FetchOptions) -> bool:
        """Answer a 401 to a request for `url`; return whether asking once more makes sense.

        `challenge` is its WWW-Authenticate, `shown` the Authorization that was sent.
        """
