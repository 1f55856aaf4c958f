"""Push an image to a registry: what is there already is left there.

A chunk's blob has the chunk's own digest, so that versions of an image share blobs. Blobs first,
then our manifest (the config), the OCI manifest under its tag last: nobody ever sees a tag whose
blobs are missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from agent.errors import ImageError, PlanError, Problem
from agent.oci.manifest import IMAGE, LIMIT, digest_of, image_document
from agent.oci.patience import patiently
from agent.oci.repository import Repository
from agent.payload.client import Client
from agent.payload.document import MAX_BYTES, parse
from agent.payload.manifest import Chunk, Manifest
from agent.payload.options import FetchOptions
from agent.payload.sign import SIGNATURE_SIZE
from agent.reference import Reference

LANES = 4
"""Connections side by side: most of the time goes into waiting for the registry's disk."""
Progress = Callable[[int, int], None]
Out = TypeVar("Out")


@dataclass(frozen=True)
class Local:
    """An image as `bedplate pack` wrote it: three files in one directory."""

    manifest: Manifest
    document: bytes
    signature: bytes
    payload: Path


@dataclass(frozen=True)
class Pushed:
    """What is in the registry now. Sizes are bytes of stored chunks, each counted once."""

    reference: Reference
    digest: str
    """Of the OCI manifest: with it the reference names this image and no later one."""
    chunks: int
    size: int
    sent: int
    """Bytes that the registry did not have."""

    @property
    def shared(self) -> int:
        return self.size - self.sent


def read_local(path: Path) -> Local:
    """Read a packed image by its manifest NAME.json; raise `PlanError` for what is not whole."""
    document = _read(path, MAX_BYTES)
    signature_path = path.with_name(f"{path.name}.sig")
    signature = _read(signature_path, SIGNATURE_SIZE)
    if len(signature) != SIGNATURE_SIZE:
        raise _wrong(signature_path, f"has {len(signature)} bytes, a signature {SIGNATURE_SIZE}")
    manifest = parse(document)
    for url in manifest.payload.urls:
        payload = path.with_name(urlsplit(url).path.rpartition("/")[2])
        if payload.is_file():
            size = payload.stat().st_size
            if size != manifest.payload.size:
                raise _wrong(
                    payload, f"has {size} bytes, the manifest says {manifest.payload.size}"
                )
            return Local(manifest, document, signature, payload)
    names = ", ".join(urlsplit(url).path.rpartition("/")[2] for url in manifest.payload.urls)
    raise _wrong(path.parent, f"holds no payload of {path.name}: {names}")


def push(
    local: Local,
    reference: Reference,
    options: FetchOptions,
    progress: Progress = lambda done, total: None,
) -> Pushed:
    """Make `reference`, which needs a tag, name this image; `options.registry` has the account.

    `progress` counts bytes of chunks, sent or found there. Each request is tried again for
    `options.patience` seconds. Raises `PlanError` for an image that no registry could hold, and
    `ImageError` when the registry will not have it.
    """
    if reference.tag is None or reference.digest is not None:
        raise PlanError([Problem(str(reference), "must have a tag and no digest: it gets one")])
    document = image_document(local.manifest, local.document, local.signature)
    if len(document) > LIMIT:
        raise PlanError([Problem(local.manifest.name, _too_many(local.manifest, len(document)))])
    with _Pushing(reference, options) as pushing:
        sent = pushing.chunks(local, progress)
        pushing.blob(local.document, digest_of(local.document))
        pushing.ask(lambda repository: repository.put_manifest(document, IMAGE))
    blobs = tuple(_blobs(local.manifest))
    size = sum(chunk.stored for chunk in blobs)
    return Pushed(reference, digest_of(document), len(blobs), size, sent)


class _Pushing:
    """Threads with a connection each, to one repository."""

    def __init__(self, reference: Reference, options: FetchOptions) -> None:
        self._reference, self._options = reference, options
        self._mine = threading.local()
        self._stack = ExitStack()
        self._stopped = threading.Event()

    def __enter__(self) -> _Pushing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def chunks(self, local: Local, progress: Progress) -> int:
        """Have every chunk in the repository; return how many bytes had to be sent."""
        total = sum(chunk.stored for chunk in _blobs(local.manifest))
        done = sent = 0
        waiting: dict[Future[int], Chunk] = {}
        file = os.open(local.payload, os.O_RDONLY | os.O_CLOEXEC)
        with ExitStack() as stack:
            stack.callback(os.close, file)
            pool = stack.enter_context(ThreadPoolExecutor(LANES, "push"))
            stack.callback(self._stopped.set)
            remaining = _blobs(local.manifest)
            more = True
            while more or waiting:
                # Never more than a few under way: a list of all futures would cost memory.
                while more and len(waiting) < 2 * LANES:
                    chunk = next(remaining, None)
                    if chunk is None:
                        more = False
                    else:
                        waiting[pool.submit(self._chunk, local, file, chunk)] = chunk
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    done += waiting.pop(future).stored
                    sent += future.result()
                    progress(done, total)
        return sent

    def blob(self, content: bytes, digest: str) -> int:
        """Have one blob in the repository; return how many bytes had to be sent."""
        if self.ask(lambda repository: repository.has(digest)):
            return 0
        self.ask(lambda repository: repository.upload(content, digest))
        return len(content)

    def ask(self, request: Callable[[Repository], Out]) -> Out:
        """Send one request, again and again while that may help."""
        repository = self._repository()
        return patiently(
            lambda: request(repository), str(self._reference), self._options, self._stopped
        )

    def _repository(self) -> Repository:
        """Return this thread's own connection."""
        if not hasattr(self._mine, "repository"):
            client = Client(self._options)
            self._stack.enter_context(closing(client))
            seconds = self._options.request
            self._mine.repository = Repository(client, self._reference, seconds)
        repository: Repository = self._mine.repository
        return repository

    def _chunk(self, local: Local, file: int, chunk: Chunk) -> int:
        digest = f"sha256:{chunk.sha256}"
        if self._stopped.is_set() or self.ask(lambda repository: repository.has(digest)):
            return 0
        frame = os.pread(file, chunk.stored, chunk.at)
        if sha256(frame).hexdigest() != chunk.sha256:
            raise ImageError(
                f"{local.payload}: bytes {chunk.at} to {chunk.at + chunk.stored - 1} are not those "
                f"of {local.manifest.name}: damaged, or the manifest of another build"
            )
        self.ask(lambda repository: repository.upload(frame, digest))
        return len(frame)


def _blobs(manifest: Manifest) -> Iterator[Chunk]:
    """Yield the chunks whose frames differ."""
    seen = set()
    for chunk in manifest.chunks:
        if chunk.sha256 not in seen:
            seen.add(chunk.sha256)
            yield chunk


def _too_many(manifest: Manifest, size: int) -> str:
    most = LIMIT * len(manifest.chunks) // size
    return (
        f"has {len(manifest.chunks)} chunks, whose list takes {size} bytes; registries take "
        f"{LIMIT} (some {most} chunks): pack it with a larger --chunk-size, or serve it from a web "
        "server"
    )


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _wrong(path, f"cannot be read: {reason}") from None
    if len(content) > limit:
        raise _wrong(path, f"is longer than {limit} bytes")
    return content


def _wrong(path: Path, message: str) -> PlanError:
    return PlanError([Problem(str(path), message)])
