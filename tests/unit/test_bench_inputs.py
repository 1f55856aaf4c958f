"""What the bench's images are made of, as far as it can be said without making them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agent.payload.manifest import Chunk, Manifest, Payload
from tests.bench.inputs import ALIGN, esp_size, root_size
from tests.bench.payloads import fetched, new_bytes
from tests.bench.scale import FULL, QUICK, Scale

MiB = 1 << 20


def manifest(*chunks: tuple[int, str], zero: int | None = None) -> Manifest:
    """Return a disk image with a chunk of 4 MiB for each (stored bytes, digest's first letter)."""
    at, made = 0, []
    for number, (stored, letter) in enumerate(chunks):
        offset = number * 4 * MiB
        made.append(Chunk(offset, 4 * MiB, at, stored, letter * 64, zero=number == zero))
        at += stored
    return Manifest(
        version=1,
        name="disk",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        kind="disk",
        size=len(chunks) * 4 * MiB,
        sha256="0" * 64,
        chunk_size=4 * MiB,
        digest="sha256",
        payload=Payload(urls=("disk.raw.zst",), size=at),
        chunks=tuple(made),
    )


def test_bytes_are_new_when_no_chunk_of_the_older_image_has_their_digest() -> None:
    before = manifest((100, "a"), (200, "b"), (300, "c"))
    assert new_bytes(before, before) == 0
    # b was changed, c and a changed places; d is there twice and needs to be stored once
    after = manifest((300, "c"), (50, "d"), (100, "a"), (50, "d"))
    assert new_bytes(after, before) == 50


def test_zeros_do_not_cross_the_wire() -> None:
    assert fetched(manifest((100, "a"), (20, "b"), (3, "c"), zero=1)) == 103


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=lambda scale: scale.name)
def test_the_partitions_fit_on_their_disks_with_both_tables(scale: Scale) -> None:
    tables = 2 * ALIGN
    one = esp_size(scale) + root_size(scale.disk) + tables
    assert one <= scale.disk
    assert esp_size(scale) + root_size(scale.small_disk) + tables <= scale.small_disk
    assert esp_size(scale) + 2 * root_size(scale.disk) + tables <= scale.big_disk
    # and most of the disk is the root, or the image would be nothing but zeros
    assert root_size(scale.disk) > scale.disk * 0.85


def test_the_package_that_changes_is_in_the_first_stage() -> None:
    for scale in (FULL, QUICK):
        assert scale.changed in scale.stages[0][1]
        assert [name for name, _ in scale.stages][::2] == ["first", "whole"]
