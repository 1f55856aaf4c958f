"""Containers in a registry, made by hand: a list of tars, compressed, and a manifest over them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from contextlib import closing

import zstandard

from agent.oci.credentials import Credentials
from agent.oci.manifest import IMAGE, INDEX, digest_of
from agent.oci.registries import Registries
from agent.oci.repository import Repository
from agent.payload.client import Client
from agent.payload.options import FetchOptions
from agent.reference import Reference

TAR = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"


def packed(tar: bytes, packing: str) -> tuple[str, bytes]:
    """Return a layer's media type and its stored bytes."""
    if packing == "gzip":
        return f"{TAR}+gzip", gzip.compress(tar, 1)
    if packing == "zstd":
        return f"{TAR}+zstd", zstandard.ZstdCompressor(level=1).compress(tar)
    return TAR, tar


def descriptor(media_type: str, content: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def put(
    where: str, layers: Sequence[tuple[str, bytes]], *, architecture: str | None = None
) -> Reference:
    """Put (media type, stored bytes) pairs into a registry as one image; return it by digest.

    With an `architecture` an index for it alone is put around the image.
    """
    reference = Reference.parse(where)
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    client = Client(FetchOptions(registry=Registries(Credentials(), "pull,push")))
    with closing(client):
        repository = Repository(client, reference, 30)
        for content in (config, *(content for _, content in layers)):
            repository.upload(content, digest_of(content))
        document = {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor(*layer) for layer in layers],
        }
        content = json.dumps(document).encode()
        repository.put_manifest(content, IMAGE)
        if architecture is not None:
            platform = {"os": "linux", "architecture": architecture}
            Repository(client, reference.by_digest(digest_of(content)), 30).put_manifest(
                content, IMAGE
            )
            entry = {**descriptor(IMAGE, content), "platform": platform}
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
            content = json.dumps(index).encode()
            repository.put_manifest(content, INDEX)
    return reference.by_digest(digest_of(content))
