"""A container image of a registry as layers to pack: for whoever makes images, not for the agent.

Any platform may be chosen, and the layers are read twice; nothing is kept on disk.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import BinaryIO

from agent.oci.blob import Blob, Placed
from agent.oci.layer import PulledLayer, packing
from agent.oci.manifest import Descriptor
from agent.oci.patience import patiently
from agent.oci.repository import Repository
from agent.payload.client import Client
from agent.payload.options import FetchOptions
from agent.payload.sources import oci
from agent.payload.sources.layers import Layer
from agent.payload.sources.oci import Platform, layers_of
from agent.reference import Reference


def pulled_layers(
    reference: Reference, platform: Platform, options: FetchOptions
) -> Sequence[Layer]:
    """Return the layers of the image for `platform`, the lowest first, none of them read yet.

    Raises `PlanError` if there is no such image, and `ImageError` if the registry does not say.
    """
    with closing(Client(options)) as client:
        documents = _Documents(client, reference, options)
        blobs = layers_of(documents, documents.ask(reference.named), platform)
    return [_layer(reference, one.blob, options) for one in blobs]


class _Documents:
    """The manifests below an index. Implements `agent.payload.sources.oci.Blobs`."""

    def __init__(self, client: Client, reference: Reference, options: FetchOptions) -> None:
        self.name = str(reference)
        self._repository = Repository(client, reference, options.request)
        self._options = options

    @contextmanager
    def open(self, digest: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.ask(digest))

    def ask(self, named: str) -> bytes:
        """Return the manifest of a tag or digest."""
        document = patiently(lambda: self._repository.manifest(named), self.name, self._options)
        return document.content


def _layer(reference: Reference, blob: oci.Descriptor, options: FetchOptions) -> Layer:
    name = f"{reference.repository} layer {blob.digest}"
    place = Placed(blob.digest, blob.size, f"{reference.base}/blobs/{blob.digest}")
    described = Descriptor(mediaType=blob.kind, digest=blob.digest, size=blob.size)
    return PulledLayer(name, Blob(place, name, options), packing(described, name))
