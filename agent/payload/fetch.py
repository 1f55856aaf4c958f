"""Find the manifest of an image, and see which mirrors have its payload.

The signature is verified before the manifest is parsed, and nothing but the keys that were passed
in is trusted: not the mirror, not TLS.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from agent.errors import ImageError
from agent.payload.client import PIECE, Client, origin, refusal
from agent.payload.courier import Courier
from agent.payload.document import MAX_BYTES, parse
from agent.payload.manifest import Manifest
from agent.payload.mirrors import Mirrors
from agent.payload.options import ANYONE, Access, FetchOptions
from agent.payload.reader import not_encoded
from agent.payload.registry import SCHEMES, Registry
from agent.payload.sign import SIGNATURE_SIZE, PublicKey, verify
from agent.payload.trouble import Passing, Trouble, Wrong

PROBE_PATIENCE = 30.0
"""Seconds that `probe` gives a mirror to deliver one chunk."""


@dataclass(frozen=True)
class Source:
    """Where an image was found: evidence for the report, and all that `stream` needs.

    `sha256` is of the manifest's bytes, `key` the id of the key that signed them. `payload_urls`
    begins with the mirror that gave the manifest. `origins` may be sent the bearer token of
    `access`, which is no evidence and cannot print its secrets.

    A container has no signature and no `key`; `layers` are the digests of what it is made of.
    """

    manifest_url: str
    sha256: str
    key: str
    payload_urls: tuple[str, ...]
    origins: frozenset[str]
    access: Access = ANYONE
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What a mirror of the payload did when asked for one chunk; no `problem` means it has it."""

    url: str
    problem: str | None


class _NowhereError(Exception):
    """No mirror gave a manifest in this round, and one of them may do so later."""


def get_manifest(
    urls: Sequence[str], trusted: Sequence[PublicKey], options: FetchOptions | None = None
) -> tuple[Manifest, Source]:
    """Return the image's manifest from the first URL that has it, signed by a trusted key.

    URLs are http, https, file, or oci where `options.registry` reads those; but for oci the
    signature lies beside, with `.sig` added to the path. All of them are tried again while one may
    recover, for `FetchOptions.patience` seconds. Raises `ImageError` naming what each URL did, and
    `PlanError` when a manifest with a good signature is not valid: then its author has to act, not
    the mirror.
    """
    options = options or FetchOptions()
    search = _Search(urls, trusted, options)
    try:
        url, document, key = _found(search, options)
    except _NowhereError:
        raise ImageError(search.failure()) from None
    finally:
        search.client.close()
    manifest = parse(document)
    return manifest, Source(
        manifest_url=url,
        sha256=sha256(document).hexdigest(),
        key=key.id,
        payload_urls=_payload_urls(manifest, url, urls, options.registry),
        origins=_origins(urls, options.registry),
        access=Access(options.token, options.proxies),
    )


def _found(search: _Search, options: FetchOptions) -> tuple[str, bytes, PublicKey]:
    """Go round the mirrors, again and again while one may recover."""
    began = time.monotonic()
    try:
        return search.round()
    except _NowhereError as error:
        failed = [error]
    # Here and not above: hardly any machine needs it.
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        stop_before_delay,
        wait_random_exponential,
    )

    def again() -> tuple[str, bytes, PublicKey]:
        if failed:  # the first try was that above
            raise failed.pop()
        return search.round()

    patience = options.patience - options.stall - (time.monotonic() - began)
    retrying = Retrying(
        retry=retry_if_exception_type(_NowhereError),
        wait=wait_random_exponential(multiplier=0.5, max=15),
        stop=stop_before_delay(max(0.0, patience)),
        reraise=True,
    )
    return retrying(again)


def get_unverified(url: str, options: FetchOptions) -> tuple[Manifest, Source]:
    """Return a manifest without a look at its signature: for people, never for a machine.

    Asked once. Raises `ImageError` naming what the URL did, `PlanError` when it is not valid.
    """
    search = _Search([url], (), options)
    try:
        document = search.read(url, MAX_BYTES)
    except Trouble as trouble:
        raise ImageError(f"{url}: {trouble}") from None
    finally:
        search.client.close()
    manifest = parse(document)
    return manifest, Source(
        manifest_url=url,
        sha256=sha256(document).hexdigest(),
        key="",
        payload_urls=_payload_urls(manifest, url, [url], options.registry),
        origins=_origins([url], options.registry),
        access=Access(options.token, options.proxies),
    )


def probe(
    manifest: Manifest, source: Source, options: FetchOptions | None = None
) -> tuple[Probe, ...]:
    """Fetch one chunk from every mirror of the payload, and say what is wrong with each."""
    options = options or FetchOptions()
    patience = min(options.patience, PROBE_PATIENCE)
    options = replace(options, patience=patience, warn=lambda message: None)
    number = next((n for n, chunk in enumerate(manifest.chunks) if not chunk.zero), None)
    if number is None:
        return tuple(Probe(url, None) for url in source.payload_urls)
    into = memoryview(bytearray(manifest.chunks[number].length))
    probes = []
    for url in source.payload_urls:
        mirrors = Mirrors.of([url])
        mirrors.sequential = True
        courier = Courier(
            manifest,
            mirrors,
            options,
            origins=source.origins,
            until=math.inf,
            stopped=threading.Event(),
        )
        with closing(courier):
            try:
                courier.bring(number, into)
                probes.append(Probe(url, None))
            except ImageError as error:
                probes.append(Probe(url, mirrors.all[0].said or str(error)))
    return tuple(probes)


class _Search:
    """Goes round the mirrors until one gives a manifest that a trusted key signed."""

    def __init__(
        self, urls: Sequence[str], trusted: Sequence[PublicKey], options: FetchOptions
    ) -> None:
        self._urls, self._trusted, self._options = urls, trusted, options
        self._until = time.monotonic() + options.patience
        self._said: dict[str, str] = {}
        self._mismatches = 0
        self.client = Client(options, _origins(urls, options.registry))

    def round(self) -> tuple[str, bytes, PublicKey]:
        """Try each URL once; raise `_NowhereError` if another round may help."""
        again = False
        for url in self._urls:
            # A try that is cut shorter than `stall` would only blame the mirror for our hurry.
            if url in self._said and time.monotonic() + self._options.stall >= self._until:
                continue
            try:
                document, signature = self._pair(url)
                return url, document, verify(document, signature, self._trusted)
            except Trouble as trouble:
                self._said[url] = str(trouble)
                again = again or isinstance(trouble, Passing)
            except ImageError as error:  # the signature
                self._said[url] = str(error)
                # The two files are published one after the other; perhaps we came in between.
                self._mismatches += 1
                again = again or self._mismatches <= len(self._urls)
            self._options.warn(f"{url}: {self._said[url]}")
        if again:
            raise _NowhereError
        raise ImageError(self.failure())

    def _pair(self, url: str) -> tuple[bytes, bytes]:
        registry = self._options.registry
        if urlsplit(url).scheme not in SCHEMES or registry is None:
            signature = self.read(_beside(url), SIGNATURE_SIZE)
            return self.read(url, MAX_BYTES), signature
        return registry.manifest(url, self.client, self._seconds())

    def _seconds(self) -> float:
        return min(self._options.request, max(0.0, self._until - time.monotonic()))

    def failure(self) -> str:
        said = "; ".join(f"{url}: {what}" for url, what in self._said.items())
        return f"manifest: no trusted one to be had; {said}"

    def read(self, url: str, limit: int) -> bytes:
        """Return what lies at `url`, at most `limit` bytes; raise `Trouble`."""
        if urlsplit(url).scheme == "file":
            return _get_file(url, limit)
        if urlsplit(url).scheme in SCHEMES:
            raise Wrong("is in a registry, which is not asked here")
        with self.client.get(url, {}, self._seconds()) as response:
            if response.status != 200:
                raise refusal(response)
            not_encoded(response)
            content = bytearray()
            while len(content) <= limit and (piece := response.read1(PIECE)):
                content += piece
            if len(content) > limit:
                raise Wrong(f"is longer than the {limit} bytes that {_file_name(url)} may have")
            if response.length:
                raise Passing(f"cut the connection {response.length} bytes too early")
            return bytes(content)


def _get_file(url: str, limit: int) -> bytes:
    try:
        with Path(unquote(urlsplit(url).path)).open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise Wrong(f"cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise Wrong(f"is longer than the {limit} bytes that {_file_name(url)} may have")
    return content


def _file_name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def _beside(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path + ".sig"))


def _payload_urls(
    manifest: Manifest, answered: str, urls: Sequence[str], registry: Registry | None
) -> tuple[str, ...]:
    found: list[str] = []
    for base in (answered, *urls):
        if urlsplit(base).scheme in SCHEMES:
            if registry is not None:
                found.append(registry.chunks(base))
            # A file name means "beside the manifest", and a registry keeps no files.
            found += (url for url in manifest.payload.urls if "://" in url)
        else:
            found += (urljoin(base, url) for url in manifest.payload.urls)
    return tuple(dict.fromkeys(found))


def _origins(urls: Sequence[str], registry: Registry | None) -> frozenset[str]:
    """Return where the bearer token may go: to the hosts that the operator named."""
    plain = (url for url in urls if urlsplit(url).scheme not in SCHEMES)
    stores = (url for url in urls if urlsplit(url).scheme in SCHEMES)
    named = (registry.chunks(url) for url in stores) if registry is not None else ()
    return frozenset(map(origin, (*plain, *named)))
