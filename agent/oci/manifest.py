"""Image manifests and indexes of the OCI image specification 1.1, and of Docker's older names.

Others write these documents, so members we do not know are passed over; what is used is checked.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agent.payload.manifest import Manifest
from agent.payload.sign import SIGNATURE_SIZE
from agent.payload.trouble import Wrong

LIMIT = 4 << 20
"""Bytes of a manifest that registries must take, and the reference one takes no more."""
ARTIFACT = "application/vnd.bedplate.image.v1"
CONFIG = "application/vnd.bedplate.manifest.v1+json"
CHUNK = "application/vnd.bedplate.chunk.v1+zstd"
SIGNATURE = "vnd.bedplate.signature"
"""Annotation: the 64 bytes of the signature over the config, in base64."""

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPTED = (IMAGE, INDEX, _DOCKER_IMAGE, _DOCKER_INDEX)
INDEXES = frozenset({INDEX, _DOCKER_INDEX})

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


Read = TypeVar("Read", bound=_Lenient)


class Platform(_Lenient):
    architecture: str = ""
    os: str = ""


class Descriptor(_Lenient):
    """What a blob or manifest is, its digest, and its bytes."""

    media_type: str = Field(alias="mediaType", max_length=256)
    digest: Digest
    size: int = Field(ge=0, le=1 << 50)
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class ImageManifest(_Lenient):
    artifact_type: str | None = Field(None, alias="artifactType")
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] | None = None

    def signature(self) -> bytes:
        """Return the signature of an image of ours, or raise `Wrong` for anything else."""
        if self.config.media_type != CONFIG:
            what = self.artifact_type or self.config.media_type
            raise Wrong(f"holds {what}, which is no image that `bedplate image push` put there")
        try:
            text = (self.annotations or {}).get(SIGNATURE, "")
            signature = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            signature = b""
        if len(signature) != SIGNATURE_SIZE:
            raise Wrong(f"has no signature in the annotation {SIGNATURE}")
        return signature


class Index(_Lenient):
    """One image for several platforms."""

    manifests: tuple[Descriptor, ...] = ()


@dataclass(frozen=True)
class Document:
    """A manifest's exact bytes, as a registry gave them."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    def image(self) -> ImageManifest:
        return _parsed(ImageManifest, self.content, "image manifest")

    def index(self) -> Index | None:
        """Return the index that this is, or None: then it is an image."""
        if self.media_type not in INDEXES:
            return None
        return _parsed(Index, self.content, "image index")


def digest_of(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


def image_document(manifest: Manifest, document: bytes, signature: bytes) -> bytes:
    """Return the OCI manifest of an image: its manifest is the config, its chunks the layers.

    A frame that several chunks share is named once. The same image gives the same bytes.
    """
    config = {"mediaType": CONFIG, "digest": digest_of(document), "size": len(document)}
    outer = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "artifactType": ARTIFACT,
        "config": config,
        "layers": list(_layers(manifest)),
        "annotations": {
            "org.opencontainers.image.created": manifest.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "org.opencontainers.image.title": manifest.name,
            SIGNATURE: base64.b64encode(signature).decode(),
        },
    }
    return json.dumps(outer, separators=(",", ":")).encode("ascii")


def _layers(manifest: Manifest) -> Iterator[dict[str, str | int]]:
    seen = set()
    for chunk in manifest.chunks:
        if chunk.sha256 not in seen:
            seen.add(chunk.sha256)
            digest = f"sha256:{chunk.sha256}"
            yield {"mediaType": CHUNK, "digest": digest, "size": chunk.stored}


def _parsed(kind: type[Read], content: bytes, what: str) -> Read:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        place = f"{where}: " if where else ""
        raise Wrong(f"sends an {what} that is none: {place}{message[:200]}") from None
