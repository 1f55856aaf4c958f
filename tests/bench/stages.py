"""One stage of the disk image's way, alone, in one thread: what the bound is made of.

    python -m tests.bench.stages fetch MANIFEST URL SERVER-PID
    python -m tests.bench.stages hash|decode MANIFEST PAYLOAD
    python -m tests.bench.stages write MANIFEST DEVICE

Each does what has to be done at the least: zero chunks are left out, nothing is copied twice.
Prints one JSON object: `cpu`, the CPU seconds of the stage. `fetch` counts the web server's with
its own; `write` all that the machine does, for a loop device works in the kernel's threads.
"""

from __future__ import annotations

import http.client
import json
import mmap
import os
import resource
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import zstandard

from agent.payload.manifest import Chunk, Manifest
from tests.bench.process import machine_cpu, process_cpu


def fetch(manifest: Manifest, url: str, server: int) -> float:
    parts = urlsplit(url)
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()

    def cpu() -> float:
        return _own() + sum(process_cpu(int(child)) for child in children)

    chunks = _chunks(manifest)
    buffer = memoryview(bytearray(max(chunk.stored for chunk in chunks)))
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)

    def work() -> None:
        for chunk in chunks:
            wanted = f"bytes={chunk.at}-{chunk.at + chunk.stored - 1}"
            connection.request("GET", parts.path, headers={"Range": wanted})
            response, done = connection.getresponse(), 0
            while done < chunk.stored and (count := response.readinto(buffer[done : chunk.stored])):
                done += count
            assert done == chunk.stored
            assert response.status == 206
            response.read()

    return _cost(work, cpu)


def hash_(manifest: Manifest, payload: Path) -> float:
    with payload.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as stored:

        def work() -> None:
            for chunk in _chunks(manifest):
                with memoryview(stored)[chunk.at : chunk.at + chunk.stored] as frame:
                    assert sha256(frame).hexdigest() == chunk.sha256

        return _cost(work, _own)


def decode(manifest: Manifest, payload: Path) -> float:
    into = memoryview(mmap.mmap(-1, manifest.chunk_size))
    zstd = zstandard.ZstdDecompressor()
    with payload.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as stored:

        def work() -> None:
            for chunk in _chunks(manifest):
                with memoryview(stored)[chunk.at : chunk.at + chunk.stored] as frame:
                    done = 0
                    with zstd.stream_reader(frame, closefd=False) as reader:
                        while done < chunk.length and (count := reader.readinto(into[done:])):
                            done += count
                    assert done == chunk.length

        return _cost(work, _own)


def write(manifest: Manifest, device: Path) -> float:
    # Any content will do, but a tail of zeros would let a device do less.
    content = mmap.mmap(-1, manifest.chunk_size)
    content.write(os.urandom(1 << 20) * (manifest.chunk_size >> 20))
    view = memoryview(content)
    descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)

    def work() -> None:
        for chunk in _chunks(manifest):
            assert os.pwrite(descriptor, view[: chunk.length], chunk.offset) == chunk.length
        os.fsync(descriptor)

    return _cost(work, machine_cpu)


def _cost(work: Callable[[], None], clock: Callable[[], float]) -> float:
    before = clock()
    work()
    return clock() - before


def _own() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _chunks(manifest: Manifest) -> list[Chunk]:
    return [chunk for chunk in manifest.chunks if not chunk.zero]


def main(stage: str, document: Path, *place: str) -> None:
    manifest = Manifest.model_validate_json(document.read_bytes())
    if stage == "fetch":
        cpu = fetch(manifest, place[0], int(place[1]))
    else:
        cpu = {"hash": hash_, "decode": decode, "write": write}[stage](manifest, Path(place[0]))
    sys.stdout.write(json.dumps({"cpu": cpu}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
