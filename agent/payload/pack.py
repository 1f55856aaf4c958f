"""Turn a root file system's tar into an image: payload, manifest, signature.

Streaming and on all cores: the calling thread reads, hashes and surveys, a pool compresses, and the
frames are written in order. The same tar gives the same bytes with the same zstd library, however
many cores there are.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, BinaryIO

import zstandard
from pydantic import ValidationError

from agent.errors import PlanError, Problem
from agent.payload.decompress import BROKEN, Progress, decompressed, read_chunk
from agent.payload.document import encode
from agent.payload.manifest import (
    CHUNK_SIZE,
    CHUNK_SIZES,
    MAX_CHUNKS,
    NAME,
    Chunk,
    Manifest,
    Payload,
)
from agent.payload.sign import SigningKey
from agent.payload.survey import Survey, wanted
from agent.payload.tar import TarError, TarReader

LEVEL = 9
"""Measured in docs/image-format.md: higher levels cost far more time than they save bytes."""
LEVELS = range(1, 23)


@dataclass(frozen=True)
class PackOptions:
    """How to pack.

    `workers` is the number of threads that compress, 0 for one on each core. `created` is by
    default the newest member's time, so that builds reproduce. `urls` say where the payload will
    lie, if not beside the manifest.
    """

    level: int = LEVEL
    chunk_size: int = CHUNK_SIZE
    workers: int = 0
    created: datetime | None = None
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packed:
    """What was made, and where it lies."""

    manifest: Manifest
    payload: Path
    document: Path
    signature: Path


def pack(
    source: BinaryIO,
    directory: Path,
    name: str,
    key: SigningKey,
    *,
    options: PackOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Packed:
    """Write NAME.tar.zst, NAME.json and NAME.json.sig into `directory`, replacing older ones.

    `source` is a tar archive, plain or compressed (gzip, xz, bzip2, zstd); a pipe will do. The
    files appear when all three are complete, the manifest last. `progress` counts bytes of
    `source`; its total is 0 for a pipe. Raises `PlanError` when the options are wrong, `source` is
    not one sound archive, or a file cannot be written.
    """
    options = options or PackOptions()
    _check(name, options)
    packed = f"{name}.tar.zst"
    with _writing(directory), tempfile.TemporaryDirectory(prefix=f".{name}.", dir=directory) as tmp:
        work = Path(tmp)
        name_of_source = getattr(source, "name", None)
        where = name_of_source if isinstance(name_of_source, str) else "source"
        packing = _Packing(options, where)
        with (work / packed).open("wb") as file:
            for frame in packing.frames(source, progress):
                file.write(frame)
            _settle(file)
        manifest = packing.manifest(name, options.urls or (packed,))
        document = encode(manifest)
        contents = {f"{name}.json.sig": key.sign(document), f"{name}.json": document}
        for path, content in contents.items():
            with (work / path).open("wb") as file:
                file.write(content)
                _settle(file)
        for path in (packed, *contents):
            (work / path).replace(directory / path)
    _settle_directory(directory)
    return Packed(
        manifest, directory / packed, directory / f"{name}.json", directory / f"{name}.json.sig"
    )


class _Packing:
    """One pass over one archive: yields the frames, and knows the manifest afterwards."""

    def __init__(self, options: PackOptions, where: str) -> None:
        self._options, self._where = options, where
        self._raw, self._size, self._at = sha256(), 0, 0
        self._chunks: list[Chunk] = []
        self._survey = Survey()
        self._reader = TarReader(self._survey.see, wanted)
        self._compress = _Compressor(options.level)
        self._zeros = bytes(options.chunk_size)

    def frames(self, source: BinaryIO, progress: Progress) -> Iterator[bytes]:
        """Yield the payload, frame by frame."""
        workers = self._options.workers or os.cpu_count() or 1
        with ThreadPoolExecutor(workers, "compress") as pool:
            waiting: deque[tuple[int, bool, Future[bytes]]] = deque()
            for chunk in self._chunks_of(source, progress):
                zero = chunk == memoryview(self._zeros)[: len(chunk)]
                waiting.append((len(chunk), zero, pool.submit(self._compress, chunk)))
                # Two more than there are threads: none of them ever waits for the reader.
                if len(waiting) > workers + 2:
                    yield self._frame(*waiting.popleft())
            while waiting:
                yield self._frame(*waiting.popleft())

    def manifest(self, name: str, urls: tuple[str, ...]) -> Manifest:
        newest = datetime.fromtimestamp(max(0, self._survey.newest), UTC)
        try:
            return Manifest(
                version=1,
                name=name,
                created=self._options.created or newest,
                kind="tree",
                os=self._survey.os(),
                size=self._size,
                sha256=self._raw.hexdigest(),
                chunk_size=self._options.chunk_size,
                digest="sha256",
                payload=Payload(urls=urls, size=self._at),
                tree=self._survey.tree(),
                chunks=tuple(self._chunks),
            )
        except ValidationError as error:
            raise self._refused(f"makes no valid manifest: {error}") from None

    def _chunks_of(self, source: BinaryIO, progress: Progress) -> Iterator[bytearray]:
        try:
            stream = decompressed(source, progress)
            while chunk := read_chunk(stream, self._options.chunk_size):
                self._raw.update(chunk)
                self._reader.feed(chunk)
                self._size += len(chunk)
                yield chunk
            self._reader.close()
        except TarError as error:
            raise self._refused(str(error)) from None
        except BROKEN as error:
            raise self._refused(f"cannot be read: {error}") from None

    def _frame(self, length: int, zero: bool, compressed: Future[bytes]) -> bytes:
        if len(self._chunks) == MAX_CHUNKS:
            raise self._refused(f"has more than {MAX_CHUNKS} chunks, use a larger chunk size")
        frame = compressed.result()
        offset = self._chunks[-1].offset + self._chunks[-1].length if self._chunks else 0
        digest = sha256(frame).hexdigest()
        self._chunks.append(Chunk(offset, length, self._at, len(frame), digest, zero))
        self._at += len(frame)
        return frame

    def _refused(self, message: str) -> PlanError:
        return PlanError([Problem(self._where, message)])


class _Compressor:
    """One zstd frame from one chunk, in any thread; the frame says how long its content is.

    No content checksum: the manifest's sha256 covers the frame, and checking both costs a tenth of
    the decoding.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._local = threading.local()

    def __call__(self, chunk: bytearray) -> bytes:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(
                level=self._level, write_content_size=True, write_checksum=False
            )
        frame: bytes = self._local.compressor.compress(chunk)
        return frame


def _check(name: str, options: PackOptions) -> None:
    problems = []
    if not NAME.fullmatch(name):
        problems.append(
            Problem("name", f"is {name!r}, must be letters, digits, . _ + or -, at most 128")
        )
    if options.level not in LEVELS:
        problems.append(Problem("level", f"is {options.level}, zstd has 1 to {LEVELS.stop - 1}"))
    if options.chunk_size not in CHUNK_SIZES:
        limits = f"from {CHUNK_SIZES.start} to {CHUNK_SIZES.stop - 1}"
        problems.append(
            Problem(
                "chunk_size",
                f"is {options.chunk_size}, must be a multiple of {CHUNK_SIZES.step} {limits}",
            )
        )
    for number, url in enumerate(options.urls):
        try:
            Payload(urls=(url,), size=0)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            problems.append(Problem(f"urls[{number}]", f"is {url!r}, {message}"))
    if options.created and options.created.tzinfo is not UTC:
        problems.append(Problem("created", f"is {options.created}, must be in UTC"))
    if problems:
        raise PlanError(problems)


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise PlanError([Problem(str(directory), f"cannot be written to: {reason}")]) from None


def _settle(file: IO[bytes]) -> None:
    """Make it readable for web servers, and safe from a power cut."""
    os.fchmod(file.fileno(), 0o644)
    file.flush()
    os.fsync(file.fileno())


def _settle_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
