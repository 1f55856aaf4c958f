"""The GUID partition table of a disk image, as bytes: read it, and fit it to a larger device.

An image carries its backup table at its own end, where on a larger disk nobody looks. It is moved
before the image can boot, in memory: sfdisk and sgdisk would want the table on the disk first, and
a disk with a table is one that firmware starts from. UEFI 2.10, section 5.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

HEAD = 1 << 20
"""Bytes of an image in which its table must lie; every partitioner begins behind them."""
TYPE_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
SECTORS = (512, 4096)
SIGNATURE = b"EFI PART"
# Signature, revision, header size, its CRC, reserved, own LBA, the other's LBA, first and last
# usable LBA, disk GUID, LBA of the entries, their number, the size of one, CRC of all (table 5-5).
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
# Type, PARTUUID, first and last LBA, attributes, name (table 5-6).
_ENTRY = struct.Struct("<16s16sQQQ72s")
_MOST_ENTRIES = 4096
# A record of the protective MBR: first LBA and number of sectors (table 5-4).
_RECORDS = range(446, 510, 16)
_PROTECTIVE = 0xEE


class NoTable(ValueError):  # noqa: N818
    """There is no valid table, said in lower case without naming the image."""


@dataclass(frozen=True)
class Partition:
    """One entry: `start` and `size` in bytes."""

    number: int
    type: UUID
    partuuid: UUID
    start: int
    size: int
    name: str

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.start + self.size


@dataclass(frozen=True)
class Moved:
    """A table that fits its device: what to write where, the backup first."""

    head: bytes
    """The first bytes of the device, as many as were given."""
    backup: bytes
    backup_at: int
    """Bytes from the device's beginning; the backup ends where the device ends."""


@dataclass(frozen=True)
class Table:
    """A valid primary table. `sector` is what its LBAs count, in bytes."""

    head: bytes
    sector: int
    guid: UUID
    alternate: int
    """Where its backup lies, in bytes from the beginning."""
    partitions: tuple[Partition, ...]
    entries_at: int
    entry_size: int
    entry_count: int

    @property
    def esp(self) -> Partition | None:
        """The first EFI system partition, where firmware looks for a loader."""
        return next((p for p in self.partitions if p.type == TYPE_ESP), None)

    @property
    def end(self) -> int:
        """The byte after the last partition."""
        return max((p.end for p in self.partitions), default=0)

    @property
    def full(self) -> bool:
        """Whether it has no room for another entry."""
        return self._free_slot() is None

    def moved(self, size: int, extra: Partition | None = None) -> Moved:
        """Return the table for a device of `size` bytes, with one more entry if asked.

        `extra.number` does not matter: the last free slot is taken, so that the numbers that other
        programs give to new partitions are the same as without it. Raises `NoTable` without room.
        """
        last = size // self.sector - 1
        entries = bytearray(self._entries())
        if extra is not None:
            slot = self._free_slot()
            if slot is None:
                raise NoTable(f"has no free entry, all {self.entry_count} are taken")
            at = slot * self.entry_size
            entries[at : at + _ENTRY.size] = self._entry(extra)
        sectors = -(-len(entries) // self.sector)
        behind = last - sectors
        old = _HEADER.unpack_from(self.head, self.sector)
        primary = (*old[:6], last, old[7], behind - 1, *old[9:13], zlib.crc32(entries))
        backup = (*primary[:5], last, 1, *primary[7:10], behind, *primary[11:])
        head = bytearray(self.head)
        head[self.sector : 2 * self.sector] = self._header(primary)
        head[self.entries_at : self.entries_at + len(entries)] = entries
        _stretch(head, last)
        tail = bytes(entries).ljust(sectors * self.sector, b"\0") + self._header(backup)
        return Moved(bytes(head), tail, behind * self.sector)

    def _entries(self) -> bytes:
        return self.head[self.entries_at : self.entries_at + self.entry_count * self.entry_size]

    def _free_slot(self) -> int | None:
        entries = self._entries()
        for slot in reversed(range(self.entry_count)):
            if not any(entries[slot * self.entry_size : slot * self.entry_size + 16]):
                return slot
        return None

    def _entry(self, partition: Partition) -> bytes:
        return _ENTRY.pack(
            partition.type.bytes_le,
            partition.partuuid.bytes_le,
            partition.start // self.sector,
            partition.end // self.sector - 1,
            0,
            partition.name.encode("utf-16-le"),
        )

    def _header(self, fields: tuple[object, ...]) -> bytes:
        """Return a header's sector; what a later revision keeps behind the fields stays."""
        length = int.from_bytes(self.head[self.sector + 12 : self.sector + 16], "little")
        block = bytearray(self.head[self.sector : 2 * self.sector])
        block[: _HEADER.size] = _HEADER.pack(*fields[:3], 0, *fields[4:])
        block[16:20] = zlib.crc32(block[:length]).to_bytes(4, "little")
        return bytes(block)


def parse(head: bytes) -> Table:
    """Read the table in the first MiB of an image or a disk; raise `NoTable` saying what is wrong.

    What its LBAs count is seen from where the header lies.
    """
    for sector in SECTORS:
        if head[sector : sector + 8] == SIGNATURE:
            return _parse(head, sector)
    raise NoTable("has no GUID partition table")


def _parse(head: bytes, sector: int) -> Table:
    block = head[sector : 2 * sector]
    fields = _HEADER.unpack_from(block)
    length, crc = fields[2], fields[3]
    if not _HEADER.size <= length <= sector:
        raise NoTable(f"has a partition table whose header claims {length} bytes")
    blank = block[:16] + bytes(4) + block[20:length]
    if zlib.crc32(blank) != crc:
        raise NoTable("has a damaged partition table: the CRC of its header is wrong")
    at, count, size = fields[10] * sector, fields[11], fields[12]
    if size < _ENTRY.size or not 0 < count <= _MOST_ENTRIES or at < 2 * sector:
        raise NoTable(f"has a partition table of {count} entries of {size} bytes at byte {at}")
    entries = head[at : at + count * size]
    if len(entries) < count * size:
        raise NoTable(f"has a partition table that goes on behind its first {len(head)} bytes")
    if zlib.crc32(entries) != fields[13]:
        raise NoTable("has a damaged partition table: the CRC of its entries is wrong")
    partitions = tuple(_partitions(entries, size, sector))
    guid = UUID(bytes_le=fields[9])
    return Table(head, sector, guid, fields[6] * sector, partitions, at, size, count)


def _partitions(entries: bytes, size: int, sector: int) -> Iterator[Partition]:
    for number, at in enumerate(range(0, len(entries), size), start=1):
        kind, partuuid, first, last, _, name = _ENTRY.unpack_from(entries, at)
        if any(kind):
            yield Partition(
                number,
                UUID(bytes_le=kind),
                UUID(bytes_le=partuuid),
                first * sector,
                max(0, last + 1 - first) * sector,
                name.decode("utf-16-le", errors="replace").partition("\0")[0],
            )


def _stretch(head: bytearray, last: int) -> None:
    """Let the protective MBR cover the whole device, as partitioners want it.

    Not where it has other records too: a hybrid MBR is somebody's intention.
    """
    records = [at for at in _RECORDS if head[at + 4]]
    if [head[at + 4] for at in records] == [_PROTECTIVE]:
        at = records[0]
        if head[at + 8 : at + 12] == (1).to_bytes(4, "little"):
            head[at + 12 : at + 16] = min(last, 0xFFFFFFFF).to_bytes(4, "little")
