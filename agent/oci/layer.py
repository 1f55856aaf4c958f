"""One layer of a container image: its tar, decompressed as it comes.

Implements `agent.payload.sources.layers.Layer`. Media types: OCI image specification 1.1, "Image
Layer Filesystem Changeset"; and Docker's names for the same.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal, cast

import zstandard

from agent.errors import ImageError
from agent.oci.blob import Blob
from agent.oci.manifest import Descriptor
from agent.payload.decompress import BROKEN

Packing = Literal["plain", "gzip", "zstd"]
_OCI = "application/vnd.oci.image.layer.v1.tar"
_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
_PACKINGS: dict[str, Packing] = {
    _OCI: "plain",
    f"{_OCI}+gzip": "gzip",
    f"{_OCI}+zstd": "zstd",
    _DOCKER: "plain",
    f"{_DOCKER}.gzip": "gzip",
    f"{_DOCKER}.zstd": "zstd",
}
_WINDOW = 128 << 20
"""Bytes that a zstd decoder may keep: level 22 and `--long` take that much, and RAM is short."""


@dataclass(frozen=True)
class PulledLayer:
    """A layer in a registry; opened a second time, each of its blocks is verified before use."""

    name: str
    blob: Blob
    packing: Packing

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Yield the plain tar; raise `ImageError` if it was not the one with this digest."""
        with self.blob.open() as stored:
            try:
                yield _OPENERS[self.packing](stored)
            except BROKEN as error:
                raise ImageError(f"{self.name}: is no sound {self.packing}: {error}") from None


def packing(layer: Descriptor, name: str) -> Packing:
    """Return how a layer is compressed, or raise `ImageError` for one that cannot be taken."""
    found = _PACKINGS.get(layer.media_type)
    if found is None:
        known = ", ".join(_PACKINGS)
        raise ImageError(f"{name}: is of type {layer.media_type}, must be one of {known}")
    return found


def _zstd(stored: IO[bytes]) -> IO[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    return cast(IO[bytes], decoder.stream_reader(stored, read_across_frames=True))


_OPENERS: dict[Packing, Callable[[IO[bytes]], IO[bytes]]] = {
    "plain": lambda stored: stored,
    "gzip": lambda stored: cast(IO[bytes], gzip.GzipFile(fileobj=stored)),
    "zstd": _zstd,
}
