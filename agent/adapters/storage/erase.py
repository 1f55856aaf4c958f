"""Erase devices so that no scanner finds anything, and prove when all of a disk reads zeros.

Signatures lie in the first and the last MiB of a device, with few exceptions that `wipefs` knows
(VMFS, the second LUKS2 header), so both are used and the result is read back.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.command import Attempt, Run
from agent.errors import StepError

log = logging.getLogger(__name__)

MIB = 1024 * 1024
CANARIES = 16
CANARY_SIZE = 64 * 1024
"""Larger than any discard granularity seen on disks, so an ignored tail shows."""
SAMPLES = 128
ZEROING_LIMIT = 20.0
"""Seconds: a disk that zeroes itself by metadata is done at once, any other would take hours."""
STEP = 1024 * MIB
"""Bytes per request, aligned to any granularity: the kernel's own limit (2 GiB less a sector on
virtio) is not, and the blocks that two such requests share are then left as they were."""


@dataclass(frozen=True)
class Signature:
    """One thing `wipefs` found: its type, offset in bytes, and the label and UUID it carries."""

    kind: str
    offset: int
    label: str | None
    uuid: str | None


def signatures(run: Run, device: Path) -> tuple[Signature, ...]:
    """Return everything libblkid recognises on a device; reads only (wipefs(8) without -a)."""
    output = run("wipefs", "--json", "--output", "OFFSET,TYPE,LABEL,UUID", device)
    if not output.strip():
        return ()
    return tuple(
        Signature(entry["type"], int(entry["offset"], 16), entry["label"], entry["uuid"])
        for entry in json.loads(output)["signatures"]
    )


def distinct(found: tuple[Signature, ...]) -> tuple[Signature, ...]:
    """Return one signature of each type: a GPT shows at both ends, and once more as PMBR."""
    by_kind: dict[str, Signature] = {}
    for signature in found:
        by_kind.setdefault(signature.kind, signature)
    if "gpt" in by_kind:
        by_kind.pop("PMBR", None)
    return tuple(by_kind.values())


def blank_ends(run: Run, device: Path) -> None:
    """Erase every known signature and the first and last MiB; raise if anything is left."""
    run("wipefs", "--all", "--force", "--quiet", device, timeout=120)
    with _opened(device) as (descriptor, size):
        _zero(descriptor, 0, min(MIB, size))
        _zero(descriptor, max(0, size - MIB), min(MIB, size))
        os.fsync(descriptor)
    if left := signatures(run, device):
        names = ", ".join(sorted({signature.kind for signature in left}))
        raise StepError(f"{device}: still carries {names} after it was erased")


def empty(device: Path) -> bool:
    """Say whether a device looks blank: both ends and evenly spread samples read zeros."""
    with _opened(device, writable=False) as (descriptor, size):
        ends = ((0, min(MIB, size)), (max(0, size - MIB), min(MIB, size)))
        spread = ((offset, 4096) for offset in _spread(size, SAMPLES, 4096))
        return all(_zeros(descriptor, offset, length) for offset, length in (*ends, *spread))


def reads_zeros(run: Run, attempt: Attempt, device: Path) -> bool:
    """Try to make the whole disk read zeros quickly; say whether it is proven that it does.

    Discarding is a hint that a device may ignore, so marks are written first and must be gone
    afterwards. Zeroing without fallback (fallocate punching a hole, which the block layer passes
    on as WRITE ZEROES or refuses: block/fops.c, blkdev_fallocate) needs no such proof, but is
    given up when it turns out to be as slow as writing.
    """
    return discarded(attempt, device) or _zeroed(attempt, device)


def discarded(attempt: Attempt, device: Path) -> bool:
    """Discard the whole device; say whether marks that were written first are gone afterwards."""
    with _opened(device) as (descriptor, size):
        places = _canaries(size)
        for place in places:
            os.pwrite(descriptor, b"\xa5" * CANARY_SIZE, place)
        os.fsync(descriptor)
    done = attempt("blkdiscard", "--force", "--step", str(STEP), device, timeout=600)
    if done.status:
        log.info("%s: cannot discard: %s", device, done.stderr.strip())
        return False
    with _opened(device, writable=False) as (descriptor, size):
        gone = all(_zeros(descriptor, place, CANARY_SIZE) for place in places)
    if not gone:
        log.info("%s: discards, but what was discarded does not read zeros", device)
    return gone and empty(device)


def _zeroed(attempt: Attempt, device: Path) -> bool:
    with _opened(device, writable=False) as (_, size):
        pass
    began = time.monotonic()
    offset = 0
    while offset < size:
        length = min(STEP, size - offset)
        done = attempt(
            "fallocate", "--punch-hole", "--offset", str(offset), "--length", str(length), device,
            timeout=600,
        )  # fmt: skip
        if done.status:
            log.info("%s: cannot zero by itself: %s", device, done.stderr.strip())
            return False
        offset += length
        spent = time.monotonic() - began
        if spent * size / offset > ZEROING_LIMIT and offset < size:
            log.info("%s: zeroing would take %.0f s", device, spent * size / offset)
            return False
    return True


def _canaries(size: int) -> list[int]:
    """Return where marks go: spread over the disk, at its end, and across the edges of requests."""
    spread = _spread(size, CANARIES, CANARY_SIZE)
    edges = (place // STEP * STEP - CANARY_SIZE // 2 for place in spread)
    return sorted({*spread, max(0, size - CANARY_SIZE), *(edge for edge in edges if edge > 0)})


def _spread(size: int, count: int, length: int) -> list[int]:
    """Return up to `count` offsets, multiples of 1 MiB, from the first to the last that fits."""
    last = max(0, size - length) // MIB
    return sorted({last * i // max(1, count - 1) * MIB for i in range(count)})


@contextmanager
def _opened(device: Path, *, writable: bool = True) -> Iterator[tuple[int, int]]:
    """Yield a descriptor and the size in bytes; the device's own errors become `StepError`."""
    try:
        descriptor = os.open(device, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            # What the kernel cached before a discard must not answer for the device.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            yield descriptor, os.lseek(descriptor, 0, os.SEEK_END)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StepError(f"{device}: {error.strerror}") from error


def _zero(descriptor: int, offset: int, length: int) -> None:
    written = 0
    while written < length:
        written += os.pwrite(descriptor, bytes(length - written), offset + written)


def _zeros(descriptor: int, offset: int, length: int) -> bool:
    return not any(os.pread(descriptor, length, offset))
