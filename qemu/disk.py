"""Disk images: blank, branched, filled, and hashed as the guest sees them.

All are qcow2, because snapshots and branches need it. An image must not be in use by a running
machine when it is read here: qemu-img refuses by its lock, and that is wanted, since what a guest
has written is complete only after it was switched off.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qemu.program import run

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

_BLOCK = 64 * KiB


@dataclass(frozen=True)
class Extent:
    """A run of bytes of the disk."""

    start: int
    length: int


def blank(path: Path, size: int) -> Path:
    """Create an empty disk of `size` bytes; it takes no room until it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(size))
    return path


def branch(path: Path, base: Path) -> Path:
    """Create a disk that starts with the content of `base` and keeps its own changes.

    The base must never be written again. It is recorded relative to `path`, so that both can be
    moved together.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    backing = os.path.relpath(base.resolve(), path.parent.resolve())
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", path)
    return path


def from_raw(path: Path, raw: Path) -> Path:
    """Create a disk with the content of a raw image, such as another system's disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    return path


def size(path: Path) -> int:
    """Return the size the guest sees, in bytes."""
    found = json.loads(run("qemu-img", "info", "--output=json", path))
    return int(found["virtual-size"])


def write_at(path: Path, offset: int, content: bytes) -> None:
    """Write bytes into a disk from outside."""
    with tempfile.NamedTemporaryFile(prefix="bedplate-") as source:
        source.write(content)
        source.flush()
        command = f"write -q -s {source.name} {offset} {len(content)}"
        run("qemu-io", "-f", "qcow2", "-c", command, path)


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Read bytes of a disk from outside. Offset and length are multiples of 512."""
    assert offset % 512 == 0 == length % 512, (offset, length)
    with tempfile.TemporaryDirectory(prefix="bedplate-", dir=path.parent) as scratch:
        raw = Path(scratch, "raw")
        run(
            "qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=512",
            f"skip={offset // 512}", f"count={(offset + length) // 512}",
            f"if={path}", f"of={raw}",
        )  # fmt: skip
        return raw.read_bytes()[:length].ljust(length, b"\0")


def written(path: Path) -> tuple[Extent, ...]:
    """Return what was written or discarded in this very file, its base left aside.

    Empty for a new blank disk and for a new branch. This is stricter than comparing content: an
    equal byte written over an equal byte is seen. The grain is a cluster of 64 KiB.
    """
    found = json.loads(run("qemu-img", "map", "--output=json", "-f", "qcow2", path))
    return tuple(
        Extent(entry["start"], entry["length"])
        for entry in found
        if entry["depth"] == 0 and (entry["data"] or entry.get("present", False))
    )


def content_digest(path: Path) -> str:
    """Return a sha256 over what the guest reads from this disk: equal content, equal digest.

    It covers the size, and the offset and bytes of every block of 64 KiB that is not all zero, so
    it takes as long as there is content, however large the disk; holes, explicit zeroes and the
    way the image is laid out make no difference. It is not the sha256 of the raw image.
    """
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix="bedplate-", dir=path.parent) as scratch:
        raw = Path(scratch, "raw")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-S", "64k", path, raw, timeout=900)
        digest.update(raw.stat().st_size.to_bytes(8, "big"))
        for offset, block in _blocks(raw):
            if block.count(0) != len(block):
                digest.update(offset.to_bytes(8, "big"))
                digest.update(block)
    return digest.hexdigest()


def _blocks(raw: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every aligned block that is not in a hole of the file."""
    with raw.open("rb") as source:
        length = os.fstat(source.fileno()).st_size
        place = 0
        while place < length:
            try:
                start = os.lseek(source.fileno(), place, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole follows
                return
            end = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            place = start - start % _BLOCK
            source.seek(place)
            while place < end:
                yield place, source.read(_BLOCK)
                place += _BLOCK
