"""The cache of docs/rack-cache.md: a stock nginx between the machines and the origin."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.payload.fetch import get_manifest
from agent.payload.options import FetchOptions
from agent.payload.pack import PackOptions, pack
from agent.payload.stream import Tally, stream
from tests.adapters.nginx import PROGRAM, Nginx, free_port
from tests.unit.payload.images import DEBIAN, Image, files, signing_key

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs nginx (qemu/install-deps)")
DOCUMENT = Path(__file__).parents[2] / "docs/rack-cache.md"
PAYLOAD = "image.tar.zst"
SLICE = 256 << 10


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image of 11 MiB with a gap of zeros, whose frames lie across the slices."""
    directory = tmp_path_factory.mktemp("image")
    numbers = random.Random(5)
    noise = {f"usr/{n}": numbers.randbytes((1 << 20) + 777 * n) for n in range(10)}
    raw = files({"etc/os-release": DEBIAN, "var/zeros": bytes(5 << 20), **noise})
    key = signing_key(directory)
    options = PackOptions(level=1, chunk_size=1 << 20, workers=2)
    made = pack(io.BytesIO(raw), directory, "image", key, options=options)
    paths = (made.payload, made.document, made.signature)
    return Image(made.manifest, raw, {path.name: path.read_bytes() for path in paths}, key)


@dataclass
class Rack:
    origin: Nginx
    cache: Nginx
    www: Path
    store: Path


@pytest.fixture
def rack(sample: Image, tmp_path: Path) -> Iterator[Rack]:
    www, store = tmp_path / "www", tmp_path / "store"
    www.mkdir()
    for name, content in sample.files.items():
        (www / name).write_bytes(content)
    one, two = free_port(), free_port()
    text = DOCUMENT.read_text().partition("```nginx\n")[2].partition("```")[0]
    for what, here in (
        ("/var/cache/nginx/bedplate", str(store)),
        ("server images.example.com:80;", f"server 127.0.0.1:{one};"),
        ("listen 80;", f"listen 127.0.0.1:{two};"),
    ):
        assert text.count(what) == 1, what
        text = text.replace(what, here)
    plain = f"server {{ listen 127.0.0.1:{one}; root {www}; }}"
    with (
        Nginx(tmp_path / "origin", plain, one) as origin,
        Nginx(tmp_path / "cache", text, two) as cache,
    ):
        yield Rack(origin, cache, www, store)


def install(sample: Image, rack: Rack) -> tuple[Tally, list[str]]:
    """Fetch the image through the cache as a machine does; all of it must be right."""
    told: list[str] = []
    options = FetchOptions(connections=4, stall=5, patience=20, warn=told.append)
    urls = [rack.cache.url("image.json")]
    manifest, source = get_manifest(urls, [sample.key.public], options)
    tally = Tally()
    assert b"".join(map(bytes, stream(manifest, source, options, tally))) == sample.raw
    return tally, told


def slices(sample: Image) -> set[str]:
    """Return the ranges of all slices in which there is something that machines ask for."""
    wanted = {
        number
        for chunk in sample.manifest.chunks
        if not chunk.zero
        for number in range(chunk.at // SLICE, (chunk.at + chunk.stored - 1) // SLICE + 1)
    }
    return {f"bytes={n * SLICE}-{(n + 1) * SLICE - 1}" for n in wanted}


def test_the_origin_sends_each_byte_once_however_many_machines_come(
    sample: Image, rack: Rack
) -> None:
    with ThreadPoolExecutor(5) as machines:  # at once, before anything is cached
        for _, told in machines.map(lambda _: install(sample, rack), range(5)):
            assert told == []
    sent = rack.origin.served(PAYLOAD)
    assert {status for status, _, _ in sent} == {206}
    assert sorted(asked for _, asked, _ in sent) == sorted(slices(sample))
    assert sum(size for _, _, size in sent) <= len(sample.payload)
    install(sample, rack)
    assert rack.origin.served(PAYLOAD) == sent
    fetched = sum(c.stored for c in sample.manifest.chunks if not c.zero)
    assert sum(size for _, _, size in rack.cache.served(PAYLOAD)) == 6 * fetched


def test_what_the_cache_has_spoiled_is_fetched_again_and_mended(sample: Image, rack: Rack) -> None:
    install(sample, rack)
    before = len(rack.origin.served(PAYLOAD))
    kept = sorted(path for path in rack.store.rglob("*") if path.is_file())
    assert len(kept) == len(slices(sample))
    with kept[0].open("r+b") as file:  # a flipped bit on the cache's disk
        file.seek(-9, 2)
        byte = file.read(1)[0]
        file.seek(-9, 2)
        file.write(bytes([byte ^ 16]))
    tally, told = install(sample, rack)
    assert sum(tally.corrupt.values()) == len(told) == 1
    assert told[0].startswith(f"{rack.cache.url(PAYLOAD)}: sent bytes ")
    assert before < len(rack.origin.served(PAYLOAD)) <= before + 6  # the slices of one chunk
    assert install(sample, rack)[1] == []


def test_an_origin_that_is_gone_is_not_missed_by_who_has_the_manifest(
    sample: Image, rack: Rack
) -> None:
    install(sample, rack)
    options = FetchOptions(connections=4, stall=5, patience=20)
    found = get_manifest([rack.cache.url("image.json")], [sample.key.public], options)
    rack.origin.__exit__()
    assert b"".join(map(bytes, stream(*found, options))) == sample.raw
