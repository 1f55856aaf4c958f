"""The images port as a run uses it: a real image, a real server, GNU tar."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.images import HttpImages
from agent.errors import ImageError
from agent.payload.sign import keygen
from agent.steps.write_image import mirrors_of
from tests.adapters.crooked import Crooked, Flip, Status, always, for_path
from tests.unit.payload.images import Image, image


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def server(packed: Image) -> Iterator[Crooked]:
    with Crooked(dict(packed.files)) as running:
        yield running


@pytest.fixture
def images(packed: Image) -> HttpImages:
    return HttpImages([packed.key.public])


def test_an_image_is_found_and_its_payload_is_there(
    images: HttpImages, packed: Image, server: Crooked
) -> None:
    manifest, source = images.find([server.url("image.json")])
    assert manifest == packed.manifest
    assert source.key == packed.key.public.id
    assert list(images.problems(manifest, source)) == []


def test_an_image_of_a_stranger_is_refused(packed: Image, server: Crooked, tmp_path: Path) -> None:
    stranger = keygen(tmp_path / "key", tmp_path / "pub")
    with pytest.raises(ImageError, match="matches no trusted key"):
        HttpImages([stranger]).find([server.url("image.json")])


def test_one_mirror_with_the_payload_is_enough(
    images: HttpImages, packed: Image, server: Crooked
) -> None:
    with Crooked(dict(packed.files), always(Status(404))) as poor:
        manifest, source = images.find([poor.url("image.json"), server.url("image.json")])
        assert len(source.payload_urls) == 2
        assert list(images.problems(manifest, source)) == []


def test_without_any_payload_every_mirror_is_named_with_its_reason(
    images: HttpImages, packed: Image, server: Crooked
) -> None:
    server.script = always(Flip())
    with Crooked(dict(packed.files), for_path(".zst", Status(404))) as poor:
        manifest, source = images.find([poor.url("image.json"), server.url("image.json")])
        problems = [str(problem) for problem in images.problems(manifest, source)]
    assert len(problems) == 2
    assert problems[0].startswith(f"image.manifest: {poor.url('')}")
    assert "404" in problems[0]
    assert problems[1].startswith(f"image.manifest: {server.url('')}")


@pytest.mark.skipif(os.geteuid() != 0, reason="tar runs in a mount namespace of its own")
def test_laying_writes_the_tree_and_counts_its_bytes(
    images: HttpImages, packed: Image, server: Crooked, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    manifest, source = images.find([server.url("image.json")])
    tally = images.lay(manifest, source, tmp_path, lambda done, total: told.append((done, total)))
    assert b"trixie" in (tmp_path / "etc/os-release").read_bytes()
    assert (tmp_path / "var/zeros").stat().st_size == 5 * manifest.chunk_size
    assert told[-1] == (manifest.size, manifest.size)
    fetched = sum(chunk.stored for chunk in manifest.chunks if not chunk.zero)
    assert mirrors_of(tally) == [
        {"url": server.url("image.tar.zst"), "bytes": fetched, "corrupt": 0}
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="tar runs in a mount namespace of its own")
def test_a_mirror_that_sent_a_bad_chunk_is_in_the_report_though_the_tree_is_right(
    images: HttpImages, packed: Image, server: Crooked, tmp_path: Path
) -> None:
    with Crooked(dict(packed.files)) as good:
        urls = [server.url("image.json"), good.url("image.json")]
        manifest, source = images.find(urls)
        server.script = always(Flip())
        tally = images.lay(manifest, source, tmp_path, lambda done, total: None)
    assert b"trixie" in (tmp_path / "etc/os-release").read_bytes()
    bad, well = mirrors_of(tally)
    assert isinstance(bad, dict)
    assert isinstance(well, dict)
    assert (bad["url"], bad["bytes"]) == (server.url("image.tar.zst"), 0)
    assert 1 <= int(str(bad["corrupt"])) <= 10  # one for each connection at most
    assert well["corrupt"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="tar runs in a mount namespace of its own")
def test_a_mirror_that_flips_a_bit_ends_the_laying_with_its_name(
    images: HttpImages, packed: Image, server: Crooked, tmp_path: Path
) -> None:
    manifest, source = images.find([server.url("image.json")])
    server.script = always(Flip())
    with pytest.raises(ImageError, match="chunk") as caught:
        images.lay(manifest, source, tmp_path, lambda done, total: None)
    assert server.url("") in str(caught.value)
