"""Publish an image: three files that appear together when all are whole, or not at all.

    with publishing(directory, "debian13", key, options, kind="tree") as image:
        frames = image.frames("debian13.tar")
        frames.write(pieces, image.payload)
        packed = image.finish(frames, created=newest, os=..., tree=...)

A reader that looks in between sees the image that was there before.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Literal

from pydantic import ValidationError

from agent.errors import PlanError, Problem
from agent.payload.contents import Tree
from agent.payload.document import encode
from agent.payload.frames import Frames
from agent.payload.manifest import Manifest, Os, Payload
from agent.payload.packing import PackOptions
from agent.payload.previous import Previous, Reused, previous_image
from agent.payload.sign import SigningKey

Kind = Literal["tree", "disk"]
ABANDONED = 60.0
"""Seconds after which a directory that nobody holds was left: it is held when it has been made."""
_ENDINGS: dict[Kind, str] = {"tree": ".tar.zst", "disk": ".raw.zst"}


@dataclass(frozen=True)
class Packed:
    """What was made, and where it lies.

    `reused` is what an older image has of it, None if none was named. `ordered` says why the
    members were left in their order, empty if they were not. `dated` members carry times of access
    or change, which make equal builds differ.
    """

    manifest: Manifest
    payload: Path
    document: Path
    signature: Path
    reused: Reused | None = None
    ordered: str = ""
    dated: int = 0


class Image:
    """An image being made: write its frames into `payload`, then `finish`.

    `payload` can be read, written and rewound. `work` is a directory on the same file system that
    is gone afterwards.
    """

    def __init__(
        self,
        directory: Path,
        work: Path,
        name: str,
        key: SigningKey,
        options: PackOptions,
        kind: Kind,
        previous: Previous | None,
    ) -> None:
        self.work = work
        self.payload: IO[bytes] = (work / "payload").open("w+b")
        self.chunk_size = previous.manifest.chunk_size if previous else options.chunk_size
        self._directory, self._name, self._key = directory, name, key
        self._options, self._kind, self._previous = options, kind, previous

    def frames(self, where: str) -> Frames:
        """Return the table of frames to write with, as the options say; `where` is the source."""
        options = self._options
        return Frames(
            level=options.level, where=where, workers=options.workers, older=self._previous
        )

    def again(self) -> IO[bytes]:
        """Begin the payload anew; return what was written so far, to be read and closed."""
        written = self.payload
        (self.work / "payload").unlink()
        self.payload = (self.work / "payload").open("w+b")
        return written

    def finish(
        self, frames: Frames, *, created: datetime, os: Os | None = None, tree: Tree | None = None
    ) -> Packed:
        """Sign and publish, the manifest last. `created` counts if the options name no time.

        Raises `PlanError` if the frames make no valid manifest.
        """
        packed = self._name + _ENDINGS[self._kind]
        try:
            manifest = Manifest(
                version=1,
                name=self._name,
                created=self._options.created or created,
                kind=self._kind,
                os=os,
                size=frames.size,
                sha256=frames.sha256,
                chunk_size=self.chunk_size,
                digest="sha256",
                payload=Payload(urls=self._options.urls or (packed,), size=frames.stored),
                tree=tree,
                chunks=frames.chunks,
            )
        except ValidationError as error:
            message = f"makes no valid manifest: {error}"
            raise PlanError([Problem(frames.where, message)]) from None
        document = encode(manifest)
        contents = {f"{self._name}.json.sig": self._key.sign(document)}
        contents[f"{self._name}.json"] = document
        _settle(self.payload)
        for path, content in contents.items():
            with (self.work / path).open("wb") as file:
                file.write(content)
                _settle(file)
        (self.work / "payload").replace(self._directory / packed)
        for path in contents:
            (self.work / path).replace(self._directory / path)
        _settle_directory(self._directory)
        signature, where = (self._directory / path for path in contents)
        reused = self._previous.reused(manifest) if self._previous else None
        return Packed(manifest, self._directory / packed, where, signature, reused)


@contextmanager
def publishing(
    directory: Path, name: str, key: SigningKey, options: PackOptions, *, kind: Kind
) -> Iterator[Image]:
    """Yield the image to make; without `Image.finish`, nothing appears in `directory`.

    `name` and `options` have been checked. Raises `PlanError` when a file cannot be written.
    """
    try:
        with ExitStack() as stack:
            previous = None
            if options.previous:
                workers = options.workers or os.cpu_count() or 1
                older = previous_image(options.previous, kind, workers)
                previous = stack.enter_context(older)
            _sweep(directory, name)
            temporary = tempfile.TemporaryDirectory(prefix=f".{name}.", dir=directory)
            work = Path(stack.enter_context(temporary))
            with suppress(OSError):  # some network file systems have no locks, and none are swept
                stack.enter_context(_held(work))
            image = Image(directory, work, name, key, options, kind, previous)
            stack.callback(lambda: image.payload.close())
            yield image
    except OSError as error:
        reason = error.strerror or str(error)
        raise PlanError([Problem(str(directory), f"cannot be written to: {reason}")]) from None


@contextmanager
def _held(work: Path) -> Iterator[None]:
    """Hold a lock on the directory, which ends with this process however that ends."""
    descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sweep(directory: Path, name: str) -> None:
    """Remove what a run that was killed has left of this image: nobody else would ever find it."""
    for left in directory.glob(f".{name}.*"):
        if not re.fullmatch(r"[a-z0-9_]{8}", left.name.rpartition(".")[2]) or left.is_symlink():
            continue
        with suppress(OSError):  # a file, or one that is held
            if time.time() - left.stat().st_mtime > ABANDONED:
                with _held(left):
                    shutil.rmtree(left)


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
