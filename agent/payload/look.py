"""Find an image by where its manifest lies, with or without a key to trust.

For people who look at images. The agent never comes here: it uses no manifest without a signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urljoin, urlsplit

import requests

from agent.errors import ImageError
from agent.payload.document import MAX_BYTES, parse
from agent.payload.fetch import Source, get_manifest
from agent.payload.manifest import Manifest
from agent.payload.options import FetchOptions
from agent.payload.sign import PublicKey

_PIECE = 1 << 20


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
    document = _read(url, options)
    manifest = parse(document)
    urls = tuple(dict.fromkeys(urljoin(url, part) for part in manifest.payload.urls))
    digest = sha256(document).hexdigest()
    source = Source(manifest_url=url, sha256=digest, key="", payload_urls=urls, origins=frozenset())
    return Found(manifest, source, None)


def address(place: str) -> str:
    """Return `place` as a URL: what has no scheme is a file of this machine."""
    return place if urlsplit(place).scheme else Path(place).absolute().as_uri()


def _read(url: str, options: FetchOptions) -> bytes:
    try:
        if urlsplit(url).scheme == "file":
            with Path(unquote(urlsplit(url).path)).open("rb") as file:
                return _limited(file, url)
        asked = requests.get(
            url, stream=True, timeout=(options.connect, options.stall), allow_redirects=True
        )
        with closing(asked) as answer:
            answer.raise_for_status()
            answer.raw.decode_content = True
            return _limited(cast("BinaryIO", answer.raw), url)
    except requests.RequestException as error:
        raise ImageError(f"{url}: is not to be had: {error}") from None
    except OSError as error:
        raise ImageError(f"{url}: cannot be read: {error.strerror or error}") from None


def _limited(stream: BinaryIO, url: str) -> bytes:
    content = bytearray()
    while piece := stream.read(_PIECE):
        content += piece
        if len(content) > MAX_BYTES:
            raise ImageError(f"{url}: is longer than the {MAX_BYTES} bytes of a manifest")
    return bytes(content)
