"""Publish an image: three files that appear together when all are whole, or not at all.

    with publishing(directory, "debian13", key, options, kind="tree") as image:
        frames.write(pieces, image.payload)
        packed = image.finish(frames, created=newest, os=..., tree=...)

A reader that looks in between sees the image that was there before.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
from agent.payload.sign import SigningKey

Kind = Literal["tree", "disk"]
_ENDINGS: dict[Kind, str] = {"tree": ".tar.zst", "disk": ".raw.zst"}


@dataclass(frozen=True)
class Packed:
    """What was made, and where it lies."""

    manifest: Manifest
    payload: Path
    document: Path
    signature: Path


@dataclass(frozen=True)
class Image:
    """An image being made: write its frames into `payload`, then `finish`.

    `payload` can be read, written and rewound. `work` is a directory on the same file system that
    is gone afterwards.
    """

    payload: IO[bytes]
    work: Path
    directory: Path
    name: str
    kind: Kind
    key: SigningKey
    options: PackOptions

    def finish(
        self, frames: Frames, *, created: datetime, os: Os | None = None, tree: Tree | None = None
    ) -> Packed:
        """Sign and publish, the manifest last. `created` counts if the options name no time.

        Raises `PlanError` if the frames make no valid manifest.
        """
        packed = self.name + _ENDINGS[self.kind]
        try:
            manifest = Manifest(
                version=1,
                name=self.name,
                created=self.options.created or created,
                kind=self.kind,
                os=os,
                size=frames.size,
                sha256=frames.sha256,
                chunk_size=self.options.chunk_size,
                digest="sha256",
                payload=Payload(urls=self.options.urls or (packed,), size=frames.stored),
                tree=tree,
                chunks=frames.chunks,
            )
        except ValidationError as error:
            message = f"makes no valid manifest: {error}"
            raise PlanError([Problem(frames.where, message)]) from None
        document = encode(manifest)
        _settle(self.payload)
        contents = {f"{self.name}.json.sig": self.key.sign(document), f"{self.name}.json": document}
        for path, content in contents.items():
            with (self.work / path).open("wb") as file:
                file.write(content)
                _settle(file)
        (self.work / "payload").replace(self.directory / packed)
        for path in contents:
            (self.work / path).replace(self.directory / path)
        _settle_directory(self.directory)
        where = self.directory / f"{self.name}.json"
        return Packed(
            manifest, self.directory / packed, where, where.with_name(f"{where.name}.sig")
        )


@contextmanager
def publishing(
    directory: Path, name: str, key: SigningKey, options: PackOptions, *, kind: Kind
) -> Iterator[Image]:
    """Yield the image to make; without `Image.finish`, nothing appears in `directory`.

    `name` and `options` have been checked. Raises `PlanError` when a file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=directory) as made:
            work = Path(made)
            with (work / "payload").open("w+b") as payload:
                yield Image(payload, work, directory, name, kind, key, options)
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
