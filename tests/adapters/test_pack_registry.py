"""A container image of a real registry, packed as a tree."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner, Result

from agent.cli import main
from agent.oci.manifest import IMAGE, INDEX, digest_of
from agent.oci.registries import Registries
from agent.oci.repository import Repository
from agent.payload.client import Client
from agent.payload.options import FetchOptions
from agent.reference import Reference
from tests.adapters.registry import Registry, registry
from tests.unit.payload.images import member, signing_key, tar_of

LAYER = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


def pushed(running: Registry) -> str:
    """Put an image for two platforms there; return its address by digest."""
    reference = Reference.parse(f"{running}/system:1")
    options = FetchOptions(registry=Registries(actions="pull,push"))
    with closing(Client(options)) as client:
        repository = Repository(client, reference, 10.0)

        def blob(content: bytes, kind: str) -> dict[str, Any]:
            repository.upload(content, digest_of(content))
            return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}

        lower = tar_of([(member("etc/old", b"1"), b"1"), (member("etc/kept", b"1"), b"1")])
        images = []
        for architecture in ("amd64", "s390x"):
            text = architecture.encode()
            upper = tar_of([(member("etc/.wh.old"), b""), (member("which", text), text)])
            layers = [blob(gzip.compress(lower), f"{LAYER}+gzip"), blob(upper, LAYER)]
            config = blob(b"{}", "application/vnd.oci.image.config.v1+json")
            document = {"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers}
            content = json.dumps(document).encode()
            by_digest = Repository(client, reference.by_digest(digest_of(content)), 10.0)
            by_digest.put_manifest(content, IMAGE)
            platform = {"os": "linux", "architecture": architecture}
            images.append(
                {
                    "mediaType": IMAGE,
                    "digest": digest_of(content),
                    "size": len(content),
                    "platform": platform,
                }
            )
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": images}
        content = json.dumps(index).encode()
        repository.put_manifest(content, INDEX)
    return f"{running}/system@{digest_of(content)}"


def pack(source: str, out: Path, *more: str) -> Result:
    out.mkdir(exist_ok=True)
    if not (out / "key.pem").exists():
        signing_key(out)
    words = ["pack", source, "-n", "image", "-k", str(out / "key.pem"), "-d", str(out), *more]
    return CliRunner().invoke(main, words)


def test_an_image_of_a_registry_is_packed_for_the_platform_that_was_asked_for(
    running: Registry, tmp_path: Path
) -> None:
    source = pushed(running)
    done = pack(source, tmp_path, "--platform", "linux/s390x")
    assert done.exit_code == 0, done.output
    stored = (tmp_path / "image.tar.zst").read_bytes()
    raw = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True).read()
    assert b"etc/kept" in raw
    assert b"s390x" in raw
    assert b"etc/old" not in raw
    assert b".wh." not in raw
    by_tag = pack(f"{running}/system:1", tmp_path / "again", "--platform", "linux/s390x")
    assert by_tag.exit_code == 0, by_tag.output
    assert (tmp_path / "again/image.tar.zst").read_bytes() == stored


def test_what_a_registry_has_not_and_what_it_changed_is_refused(
    running: Registry, tmp_path: Path
) -> None:
    source = pushed(running)
    done = pack(source, tmp_path, "--platform", "linux/arm64")
    assert done.exit_code == 3
    assert "has no image for linux/arm64" in done.stderr
    assert pack(source, tmp_path, "--as", "disk").exit_code == 3
    layer = tar_of([(member("etc/.wh.old"), b""), (member("which", b"amd64"), b"amd64")])
    place = running.blob(sha256(layer).hexdigest())
    place.write_bytes(layer.replace(b"which", b"witch"))
    done = pack(source, tmp_path, "--platform", "linux/amd64")
    assert done.exit_code == 3
    assert "layer sha256:" in done.stderr
    assert not (tmp_path / "image.json").exists()
