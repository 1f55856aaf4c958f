"""Find the layers of a container image: an OCI index or manifest, and where its blobs lie.

Sources: OCI image-spec 1.1, "Image Index", "Image Manifest", "Image Layer Filesystem Changeset";
Docker's image manifest v2 schema 2, which is the same with names of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Protocol

from agent.payload.decompress import BROKEN, decompressed
from agent.payload.sources.checked import DIGEST, checked
from agent.payload.sources.ports import refused

_LARGEST_DOCUMENT = 8 << 20
_LARGEST_BLOB = 1 << 50
_INDEXES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
_MANIFESTS = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
_TAR = "application/vnd.oci.image.layer.v1.tar"
_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
_LAYERS = frozenset(
    kind + how for kind in (_TAR, _NONDISTRIBUTABLE) for how in ("", "+gzip", "+zstd")
) | {_DOCKER, f"{_DOCKER}.gzip", f"{_DOCKER}.zstd"}
_MOST_LAYERS = 1000
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


@dataclass(frozen=True)
class Platform:
    """What an image runs on, in the words of Go: linux, amd64; the variant may be empty."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def of(cls, text: str) -> Platform:
        """Parse OS/ARCHITECTURE[/VARIANT]; raise `PlanError`."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise refused("platform", f"is {text!r}, must be like linux/amd64 or linux/arm/v7")
        return cls(*parts)

    @classmethod
    def here(cls) -> Platform:
        """Return this machine's."""
        machine = os.uname().machine
        return cls("linux", _MACHINES.get(machine, machine))

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def takes(self, offered: Mapping[str, Any]) -> bool:
        """Tell whether an index's platform is this one; a variant counts if one was asked for."""
        return (
            offered.get("os") == self.os
            and offered.get("architecture") == self.architecture
            and self.variant in ("", offered.get("variant", ""))
        )


class Blobs(Protocol):
    """Where the blobs of an image lie. `open` yields one as it is stored, unchecked."""

    @property
    def name(self) -> str: ...

    def open(self, digest: str) -> AbstractContextManager[BinaryIO]: ...


@dataclass(frozen=True)
class Descriptor:
    """What an index or a manifest says of a blob."""

    kind: str
    digest: str
    size: int
    platform: Mapping[str, Any] | None = None
    name: str = ""


@dataclass(frozen=True)
class BlobLayer:
    """A layer that is a blob: its digest is of the stored bytes."""

    blobs: Blobs
    blob: Descriptor

    @property
    def name(self) -> str:
        return f"{self.blobs.name}: layer {self.blob.digest[:19]}"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Yield the layer's tar; `PlanError` at its end unless the digest is right."""
        with self.blobs.open(self.blob.digest) as stored:
            file = checked(stored, self.blob.digest, self.blob.size, self.name)
            with plain(file, self.name) as stream:
                yield stream
            while file.read(1 << 20):  # what lies behind the compressed stream counts too
                pass


@contextmanager
def plain(file: BinaryIO, where: str) -> Iterator[IO[bytes]]:
    """Yield the stream inside `file`, and turn what is broken there into `PlanError`."""
    try:
        yield decompressed(file, lambda done, total: None)
    except BROKEN as error:
        raise refused(where, f"cannot be read: {error}") from None


def layers_of(
    blobs: Blobs, document: bytes, platform: Platform, depth: int = 0
) -> Sequence[BlobLayer]:
    """Return the layers of the image that an index or a manifest names, the lowest first.

    Of several images in an index that for `platform` is taken; there must be exactly one. Every
    document below this one is checked against its digest. Raises `PlanError`.
    """
    parsed = _parsed(document, blobs.name)
    if "manifests" in parsed:
        if depth > 2:
            raise refused(blobs.name, "has indexes in indexes in indexes")
        offered = [_descriptor(entry, blobs.name) for entry in _list(parsed, "manifests", blobs)]
        chosen = _chosen(offered, platform, blobs.name)
        return layers_of(blobs, document_of(blobs, chosen), platform, depth + 1)
    found = [_descriptor(entry, blobs.name) for entry in _list(parsed, "layers", blobs)]
    if not 0 < len(found) <= _MOST_LAYERS:
        raise refused(blobs.name, f"has {len(found)} layers, must be 1 to {_MOST_LAYERS}")
    for layer in found:
        if layer.kind not in _LAYERS:
            raise refused(blobs.name, f"has a layer of type {layer.kind}, which is no tar")
    return [BlobLayer(blobs, layer) for layer in found]


def document_of(blobs: Blobs, descriptor: Descriptor) -> bytes:
    """Return a small blob, checked."""
    where = f"{blobs.name}: {descriptor.digest[:19]}"
    if descriptor.size > _LARGEST_DOCUMENT:
        raise refused(where, f"is a document of {descriptor.size} bytes")
    with blobs.open(descriptor.digest) as stored:
        return checked(stored, descriptor.digest, descriptor.size, where).read()


def _chosen(offered: Sequence[Descriptor], platform: Platform, where: str) -> Descriptor:
    # Attestations lie beside the images, for a platform that nothing runs on.
    images = [
        entry
        for entry in offered
        if entry.kind in _INDEXES | _MANIFESTS
        and (entry.platform or {}).get("architecture") != "unknown"
    ]
    if len({one.digest for one in images}) == 1 and images[0].platform is None:
        return images[0]  # once for each of its names
    fits = [one for one in images if one.platform is not None and platform.takes(one.platform)]
    if len({one.digest for one in fits}) == 1:
        return fits[0]
    there = ", ".join(sorted(_called(one) for one in images)) or "none"
    count = f"{len(fits)} images" if fits else "no image"
    raise refused(where, f"has {count} for {platform}, must be one; there are: {there}")


def _called(image: Descriptor) -> str:
    offered = image.platform or {}
    parts = (offered.get("os"), offered.get("architecture"), offered.get("variant"))
    name = "/".join(str(part) for part in parts if part) or "one of no platform"
    return f"{name} ({image.name})" if image.name else name


def _parsed(document: bytes, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise refused(where, "has an index or a manifest that is no JSON object")
    return parsed


def _list(document: Mapping[str, Any], key: str, blobs: Blobs) -> list[Any]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise refused(blobs.name, f"has a manifest without {key}: is this a container image?")
    return entries


def _descriptor(entry: object, where: str) -> Descriptor:
    found = entry if isinstance(entry, dict) else {}
    kind, digest, size = (found.get(key) for key in ("mediaType", "digest", "size"))
    platform, notes = found.get("platform"), found.get("annotations")
    if not (
        isinstance(kind, str)
        and isinstance(digest, str)
        and DIGEST.fullmatch(digest)
        and isinstance(size, int)
        and 0 <= size < _LARGEST_BLOB
    ):
        raise refused(where, f"names a blob in a way that cannot be read: {str(entry)[:200]}")
    name = notes.get("org.opencontainers.image.ref.name") if isinstance(notes, dict) else None
    offered = platform if isinstance(platform, dict) else None
    return Descriptor(kind, digest, size, offered, str(name or ""))
