"""One repository of a registry: its manifests and blobs, read and written.

One request a method, nothing tried twice: what goes wrong is `agent.payload.trouble.Trouble`, and
the caller knows how long it wants to wait. Everything read is held to the digest that named it.
"""

from __future__ import annotations

import json
from http.client import HTTPResponse
from urllib.parse import urljoin, urlsplit

from agent.oci.manifest import ACCEPTED, LIMIT, Descriptor, Document, digest_of
from agent.payload.client import PIECE, Client, refusal
from agent.payload.reader import not_encoded
from agent.payload.trouble import Corrupt, Passing, Trouble, Wrong
from agent.reference import Reference

SLOWEST = 64 << 10
"""Bytes a second that an upload must make, from where a chunk takes longer than a request may."""
LINKING = 300.0
"""Seconds for a manifest: the registry looks for each of its blobs."""
_OCTETS = {"Content-Type": "application/octet-stream"}


class Repository:
    """`client` carries the authorization; each request ends within `seconds`."""

    def __init__(self, client: Client, reference: Reference, seconds: float) -> None:
        self._client, self._reference, self._seconds = client, reference, seconds

    def manifest(self, named: str | None = None) -> Document:
        """Return the manifest of a tag or digest, by default what the reference names."""
        named = named or self._reference.named
        url = f"{self._reference.base}/manifests/{named}"
        with self._client.get(url, {"Accept": ", ".join(ACCEPTED)}, self._seconds) as response:
            if response.status != 200:
                raise _refusal(response, f"manifest {named}")
            content = body(response, LIMIT, "manifest")
            media_type = response.headers.get_content_type()
        document = Document(content, media_type)
        if media_type not in ACCEPTED:
            raise Wrong(f"sends {media_type} as manifest {named}, must be an OCI image manifest")
        if named.startswith("sha256:") and document.digest != named:
            raise Corrupt(f"sends a manifest with the digest {document.digest} as {named}")
        return document

    def blob(self, wanted: Descriptor) -> bytes:
        """Return a blob that fits into memory."""
        url = self.blob_url(wanted.digest)
        with self._client.get(url, {}, self._seconds) as response:
            if response.status != 200:
                raise _refusal(response, f"blob {wanted.digest}")
            content = body(response, wanted.size, f"blob {wanted.digest}")
        if digest_of(content) != wanted.digest:
            raise Corrupt(f"sends a blob with the digest {digest_of(content)} as {wanted.digest}")
        return content

    def blob_url(self, digest: str) -> str:
        return f"{self._reference.base}/blobs/{digest}"

    def has(self, digest: str) -> bool:
        """Tell whether the repository has a blob."""
        with self._client.ask("HEAD", self.blob_url(digest), {}, self._seconds) as response:
            if response.status in {200, 404}:
                return response.status == 200
            raise _refusal(response, f"blob {digest}")

    def upload(self, content: bytes, digest: str) -> None:
        """Put a blob there; the registry checks the digest too."""
        start = f"{self._reference.base}/blobs/uploads/"
        with self._client.ask("POST", start, {}, self._seconds) as response:
            if response.status != 202:
                raise _refusal(response, "a new blob")
            place = _location(start, response)
        url = f"{place}{'&' if urlsplit(place).query else '?'}digest={digest}"
        seconds = max(self._seconds, len(content) / SLOWEST)
        with self._client.ask("PUT", url, _OCTETS, seconds, content) as response:
            if response.status != 201:
                raise _refusal(response, f"blob {digest}")

    def put_manifest(self, content: bytes, media_type: str) -> None:
        """Put a manifest under the reference's tag; its blobs must be there."""
        named = self._reference.tag or digest_of(content)
        url = f"{self._reference.base}/manifests/{named}"
        kind = {"Content-Type": media_type}
        seconds = max(self._seconds, LINKING)
        with self._client.ask("PUT", url, kind, seconds, content) as response:
            if response.status not in {200, 201}:
                raise _refusal(response, f"manifest {named}")


def body(response: HTTPResponse, limit: int, what: str) -> bytes:
    """Return an answer's body; raise `Wrong` if it is longer than `limit` bytes."""
    not_encoded(response)
    content = bytearray()
    while len(content) <= limit and (piece := response.read1(PIECE)):
        content += piece
    if len(content) > limit:
        raise Wrong(f"sends a {what} of more than {limit} bytes")
    if response.length:
        raise Passing(f"cut the connection {response.length} bytes too early")
    return bytes(content)


def _location(base: str, response: HTTPResponse) -> str:
    """Return where an upload goes on."""
    place = response.headers.get("Location", "")
    url = urljoin(base, place)
    here, there = urlsplit(base), urlsplit(url)
    if not place or there.scheme not in {"http", "https"} or not there.hostname:
        raise Wrong(f"sends uploads to {place[:200]!r}, which is no address")
    if here.scheme == "https" and there.scheme == "http":
        raise Wrong(
            f"sends uploads from https to plain {url[:200]}: behind a proxy a registry must be "
            "told its outer address"
        )
    return url


def _refusal(response: HTTPResponse, what: str) -> Trouble:
    """Say what a refused request means, with the registry's own words where it has any."""
    trouble = refusal(response)
    if isinstance(trouble, Passing):
        return trouble
    said = _words(response)
    return Wrong(f"{trouble} for {what}{': ' if said else ''}{said}")


def _words(response: HTTPResponse) -> str:
    """Return the messages of an error body (distribution specification, "Error Codes")."""
    try:
        errors = json.loads(response.read1(PIECE)).get("errors", [])
        texts = [f"{error['code']}: {error.get('message', '')}" for error in errors[:3]]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return ""
    return "; ".join(texts).encode("unicode_escape").decode()[:300]
