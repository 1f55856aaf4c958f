"""What a disk image is divided into, and what lies in each part.

Sources: UEFI 2.10, section 5.2 for the master boot record; the Discoverable Partitions
Specification of the UAPI group for the types.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.payload import gpt
from agent.payload.sources.disk import Disk
from agent.payload.sources.filesystem import HEAD, FileSystem, probe
from agent.payload.sources.ports import refused

ROOTS = frozenset(
    {
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",  # x86-64
        "b921b045-1df0-41c3-af44-4c6f280d3fae",  # arm64
        "44479540-f297-41b2-9af7-d131d5f0458a",  # x86
        "69dad710-2ce4-4e3c-b16c-21a1d49abed3",  # arm
        "72ec70a6-cf74-40e6-bd49-4bda08e8f224",  # riscv64
        "c31c45e6-3f39-412e-80fb-4809c4980599",  # ppc64le
        "5eead9a9-fe09-4a1e-a1d7-520d00531306",  # s390x
    }
)
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
PLACES = {
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "/boot",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "/home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "/srv",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "/var",
    "8484680c-9521-48c6-9c11-b0720656f69e": "/usr",  # x86-64
    "b0e01050-ee5f-4390-949a-9101b17104e9": "/usr",  # arm64
}
"""Types that say where a partition is mounted."""
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_PROTECTIVE, _EXTENDED, _MBR_ESP = 0xEE, {0x05, 0x0F, 0x85}, 0xEF


@dataclass(frozen=True)
class Part:
    """A partition, or a file system without a table: `start` and `size` in bytes.

    `type` and `partuuid` are in lower case; `type` is empty in a master boot record, but for an
    ESP.
    """

    number: int
    start: int
    size: int
    type: str = ""
    partuuid: str = ""
    name: str = ""
    system: FileSystem | None = None

    def __str__(self) -> str:
        return f"partition {self.number} ({self.system.type if self.system else 'unknown'})"


def parts_of(disk: Disk) -> tuple[Part, ...]:
    """Return the partitions of a disk that hold something, each looked at; `PlanError` if none."""
    head = _read(disk, 0, gpt.HEAD)
    bare = probe(head)
    if bare and gpt.SIGNATURE not in (head[512:520], head[4096:4104]):
        return (Part(1, 0, disk.size, system=bare),)
    try:
        found = [_of_gpt(one) for one in gpt.parse(head).partitions]
    except gpt.NoTable as problem:
        found = list(_of_mbr(head))
        if not found:
            raise refused(disk.name, str(problem)) from None
    for part in found:
        if part.start + part.size > disk.size:
            raise refused(disk.name, f"partition {part.number} ends behind the end of the image")
    return tuple(_looked_at(disk, part) for part in found)


def _of_gpt(one: gpt.Partition) -> Part:
    return Part(one.number, one.start, one.size, str(one.type), str(one.partuuid), one.name)


def _of_mbr(head: bytes) -> Iterator[Part]:
    """Take the four primary partitions; a system's image has no others."""
    if head[510:512] != b"\x55\xaa":
        return
    (disk_id,) = struct.unpack_from("<I", head, 440)
    for number in range(1, 5):
        entry = _MBR_ENTRY.unpack_from(head, 446 + 16 * (number - 1))
        kind, first, sectors = entry[2], entry[4], entry[5]
        if kind and sectors and kind not in _EXTENDED | {_PROTECTIVE}:
            type_ = ESP if kind == _MBR_ESP else ""
            partuuid = f"{disk_id:08x}-{number:02d}"
            yield Part(number, first * 512, sectors * 512, type_, partuuid)


def _looked_at(disk: Disk, part: Part) -> Part:
    system = probe(_read(disk, part.start, min(HEAD, part.size)))
    return Part(part.number, part.start, part.size, part.type, part.partuuid, part.name, system)


def _read(disk: Disk, offset: int, size: int) -> bytes:
    buffer = bytearray(max(0, min(size, disk.size - offset)))
    try:
        disk.read_into(offset, memoryview(buffer))
    except OSError as error:
        raise refused(disk.name, f"cannot be read: {error.strerror}") from None
    return bytes(buffer)
