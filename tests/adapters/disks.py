"""Whole-disk images made by hand, and loop devices to write them to (root)."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import zstandard

from agent.payload.client import origin
from agent.payload.fetch import Source
from agent.payload.manifest import Chunk, Manifest, Payload
from tests.adapters.crooked import Crooked

MIB = 1 << 20
PAYLOAD = "disk.raw.zst"
TABLE = """\
label: gpt
label-id: 11111111-2222-4333-8444-555555555555
start=1MiB, size=2MiB, type=uefi, uuid=AAAAAAAA-0000-4000-8000-000000000001, name="esp"
start=3MiB, size={root}MiB, type=linux, uuid=AAAAAAAA-0000-4000-8000-000000000002, name="root"
"""


@dataclass(frozen=True)
class DiskImage:
    """A whole disk in memory, and how a mirror holds it."""

    raw: bytes
    manifest: Manifest
    payload: bytes

    @property
    def files(self) -> dict[str, bytes]:
        return {PAYLOAD: self.payload}


def raw_disk(directory: Path, mib: int = 24, *, sector: int = 512, seed: int = 1) -> bytes:
    """Return a disk with a GPT written by sfdisk, content that compresses, and holes of zeros."""
    path = directory / f"raw-{mib}-{sector}-{seed}"
    numbers = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(mib * MIB)
        for at in range(1, mib - 1):
            if at % 7 not in (3, 4, 5):  # zero stretches, of which some are neighbours
                file.seek(at * MIB)
                file.write(numbers.randbytes(MIB // 2) + bytes(at % 251 + 1 for _ in range(512)))
    script = TABLE.format(root=mib - 5)
    # sfdisk takes the size of a sector from the device, and 512 for a file.
    with loop(path, None, f"--sector-size={sector}") as device:
        argv: list[str | Path] = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel"]
        argv.append(device)
        subprocess.run(argv, input=script.encode(), check=True, capture_output=True)
    return path.read_bytes()


def disk_image(raw: bytes, chunk_size: int = MIB, name: str = "appliance") -> DiskImage:
    """Return the image of a disk, chunk by chunk, zero chunks marked."""
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
    frames, chunks, at = [], [], 0
    for offset in range(0, len(raw), chunk_size):
        content = raw[offset : offset + chunk_size]
        frame = compressor.compress(content)
        digest = sha256(frame).hexdigest()
        zero = not any(content)
        chunks.append(Chunk(offset, len(content), at, len(frame), digest, zero))
        frames.append(frame)
        at += len(frame)
    manifest = Manifest(
        version=1,
        name=name,
        created=datetime(2026, 11, 22, tzinfo=UTC),
        kind="disk",
        size=len(raw),
        sha256=sha256(raw).hexdigest(),
        chunk_size=chunk_size,
        digest="sha256",
        payload=Payload(urls=(PAYLOAD,), size=at),
        chunks=tuple(chunks),
    )
    return DiskImage(raw, manifest, b"".join(frames))


def source(*servers: Crooked) -> Source:
    urls = tuple(server.url(PAYLOAD) for server in servers)
    return Source(urls[0], "0" * 64, "f" * 16, urls, frozenset(map(origin, urls)))


def local(path: Path) -> Source:
    return Source("", "", "", (path.as_uri(),), frozenset())


@contextmanager
def loop(backing: Path, size: int | None = None, *options: str, fill: int = 0) -> Iterator[Path]:
    """Yield a loop device over a file; `fill` is the byte that it is full of."""
    if size is not None:
        with backing.open("wb") as file:
            file.truncate(size)
            if fill:
                file.seek(0)
                for _ in range(size // MIB):
                    file.write(bytes([fill]) * MIB)
                file.write(bytes([fill]) * (size % MIB))
    argv: Sequence[str | Path] = ("losetup", "--find", "--show", *options, backing)
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, capture_output=True)


def released(backing: Path, patience: float = 120.0) -> bool:
    """Wait up to `patience` seconds until no loop device is over the file; whether that came.

    A loop device ends with its last user. For a moment that may be another test: one that looks at
    all block devices, or whose private mount namespace began with a copy of every mount.
    """
    argv = ("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
    until = time.monotonic() + patience
    while True:
        used = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        if str(backing) not in used:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.1)


def content(device: Path) -> bytes:
    """Return what the device holds, not what the kernel remembers of it."""
    descriptor = os.open(device, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)
