"""The partition table of an image: read, refused, fitted to a larger device."""

from __future__ import annotations

import zlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.payload import gpt
from agent.payload.manifest import Chunk
from agent.payload.stamp import BEHIND, MIB, Stamp, place
from agent.payload.zero import stretches

GUID = UUID(int=7)
ESP = gpt.Partition(1, gpt.TYPE_ESP, UUID(int=1), MIB, 2 * MIB, "esp")
ROOT = gpt.Partition(3, UUID(int=9), UUID(int=3), 3 * MIB, 4 * MIB, "root wïth ümlauts")
OURS = gpt.Partition(0, UUID(int=8), UUID(int=4), 20 * MIB, MIB, "bedplate-image")


def head(
    *partitions: gpt.Partition, sector: int = 512, count: int = 128, size: int = 8 * MIB
) -> bytes:
    """Return the first MiB of an image, its table written from the specification."""
    entries = bytearray(count * 128)
    for one in partitions:
        at = (one.number - 1) * 128
        entries[at : at + 32] = one.type.bytes_le + one.partuuid.bytes_le
        entries[at + 32 : at + 40] = (one.start // sector).to_bytes(8, "little")
        entries[at + 40 : at + 48] = (one.end // sector - 1).to_bytes(8, "little")
        name = one.name.encode("utf-16-le")
        entries[at + 56 : at + 56 + len(name)] = name
    last = size // sector - 1
    header = b"EFI PART" + bytes.fromhex("00000100") + (92).to_bytes(4, "little") + bytes(8)
    for lba in (1, last, 34, last - 33):
        header += lba.to_bytes(8, "little")
    header += GUID.bytes_le + (2).to_bytes(8, "little") + count.to_bytes(4, "little")
    header += (128).to_bytes(4, "little") + zlib.crc32(entries).to_bytes(4, "little")
    header = header[:16] + zlib.crc32(header).to_bytes(4, "little") + header[20:]
    mbr = bytearray(sector)
    mbr[446:462] = bytes.fromhex("00000200eeffffff01000000") + last.to_bytes(4, "little")
    mbr[510:512] = b"\x55\xaa"
    return (bytes(mbr) + header.ljust(sector, b"\0") + bytes(entries)).ljust(MIB, b"\0")


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_table_is_read_as_it_was_written(sector: int) -> None:
    table = gpt.parse(head(ESP, ROOT, sector=sector))
    assert table.partitions == (ESP, ROOT)
    assert (table.sector, table.guid, table.esp) == (sector, GUID, ESP)
    assert (table.end, table.alternate) == (ROOT.end, 8 * MIB - sector)


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (slice(512, 520), "has no GUID partition table"),
        (slice(560, 562), "the CRC of its header is wrong"),
        (slice(1030, 1031), "the CRC of its entries is wrong"),
        (slice(524, 528), "whose header claims 4294967295 bytes"),
    ],
)
def test_a_damaged_table_is_refused(spoilt: slice, reason: str) -> None:
    content = bytearray(head(ESP))
    content[spoilt] = b"\xff" * (spoilt.stop - spoilt.start)
    with pytest.raises(gpt.NoTable, match=reason):
        gpt.parse(bytes(content))


def test_a_table_that_is_cut_off_is_refused() -> None:
    with pytest.raises(gpt.NoTable, match="goes on behind its first 4096 bytes"):
        gpt.parse(head(ESP)[:4096])
    with pytest.raises(gpt.NoTable, match="has no GUID partition table"):
        gpt.parse(b"")


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_moved_table_is_whole_at_both_ends_of_the_device(sector: int) -> None:
    size = 32 * MIB
    moved = gpt.parse(head(ESP, ROOT, sector=sector)).moved(size, OURS)
    table = gpt.parse(moved.head)
    assert table.partitions[:2] == (ESP, ROOT)
    ours = table.partitions[2]
    assert (ours.number, ours.start, ours.size, ours.name) == (128, 20 * MIB, MIB, OURS.name)
    assert table.alternate == size - sector
    assert moved.backup_at + len(moved.backup) == size
    # The backup read as if it lay in front: its own LBA and the other's are the other way round.
    header = moved.backup[-sector:]
    assert int.from_bytes(header[24:32], "little") == size // sector - 1
    assert int.from_bytes(header[32:40], "little") == 1
    assert int.from_bytes(header[72:80], "little") * sector == moved.backup_at
    blank = header[:16] + bytes(4) + header[20:92]
    assert int.from_bytes(header[16:20], "little") == zlib.crc32(blank)
    assert moved.backup[: 128 * 128] == moved.head[2 * sector : 2 * sector + 128 * 128]
    protective = int.from_bytes(moved.head[458:462], "little")
    assert protective == size // sector - 1


def test_a_hybrid_mbr_is_left_as_it_is() -> None:
    content = bytearray(head(ESP))
    content[462:478] = bytes.fromhex("80000200830000000008000000100000")
    assert gpt.parse(bytes(content)).moved(32 * MIB).head[:512] == content[:512]


def test_a_full_table_takes_no_more() -> None:
    full = head(*(gpt.Partition(n, UUID(int=9), UUID(int=n), MIB, MIB, "") for n in range(1, 5)),
                count=4)  # fmt: skip
    table = gpt.parse(full)
    assert table.full
    assert len(gpt.parse(table.moved(32 * MIB).head).partitions) == 4
    with pytest.raises(gpt.NoTable, match="has no free entry, all 4 are taken"):
        table.moved(32 * MIB, OURS)


@given(st.integers(BEHIND, 1 << 42).map(lambda size: size // 512 * 512))
def test_a_stamp_lies_behind_any_image_that_fits_and_before_the_backup(size: int) -> None:
    at = place(size)
    assert at % MIB == 0
    assert size - BEHIND <= at
    assert at + MIB <= size - MIB
    assert Stamp(UUID(int=1), bytes).entry(size).start == at


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=20), st.data())
def test_stretches_are_the_zero_bytes_between_the_ends_and_no_two_touch(
    cuts: list[tuple[int, bool]], data: st.DataObject
) -> None:
    chunks, at = [], 0
    for length, zero in cuts:
        chunks.append(Chunk(at, length, 0, 1, "0" * 64, zero))
        at += length
    first = data.draw(st.integers(0, at))
    end = data.draw(st.integers(first, at))
    found = list(stretches(chunks, first, end))
    wanted = {
        byte
        for chunk in chunks
        for byte in range(chunk.offset, chunk.offset + chunk.length)
        if chunk.zero and first <= byte < end
    }
    assert {byte for offset, length in found for byte in range(offset, offset + length)} == wanted
    assert all(length > 0 for _, length in found)
    ends = [offset + length for offset, length in found]
    assert all(end < begin for end, (begin, _) in zip(ends, found[1:], strict=False))
