"""Find an image by where its manifest lies, with or without a key to trust.

For people who look at images. The agent never comes here: it uses no manifest without a signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.errors import ImageError
from agent.payload.fetch import Source, get_manifest, get_unverified
from agent.payload.manifest import Manifest
from agent.payload.options import FetchOptions
from agent.payload.sign import PublicKey


@dataclass(frozen=True)
class Found:
    """An image and where it was found; `signed_by` is None when no key was given to check with."""

    manifest: Manifest
    source: Source
    signed_by: str | None


def find(place: str, trusted: Sequence[PublicKey], options: FetchOptions) -> Found:
    """Return the image whose manifest lies at `place`: a file, or an address that plans may have.

    With `trusted` keys its signature is verified, without any it is not looked at. Raises
    `ImageError` when there is none to be had or the signature is wrong, and `PlanError` when the
    manifest is not valid.
    """
    url = address(place)
    if trusted:
        manifest, source = get_manifest([url], trusted, options)
        return Found(manifest, source, source.key)
    if urlsplit(url).scheme not in {"http", "https", "file"}:
        raise ImageError(f"{place}: is looked at with a key only, give --trust KEY.pub")
    manifest, source = get_unverified(url, options)
    return Found(manifest, source, None)


def address(place: str) -> str:
    """Return `place` as a URL: what has no scheme is a file of this machine."""
    return place if urlsplit(place).scheme else Path(place).absolute().as_uri()
