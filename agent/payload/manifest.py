"""The manifest: what an image is made of, as docs/image-format.md defines it.

A `Manifest` that exists is whole: its chunks cover the image and the payload exactly, in order,
without gap or overlap, each within the limits below. Nothing that reads chunks checks that again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from agent.payload.contents import MAX_SIZE, Part, Size, Text, Tree

CHUNK_SIZE = 4 << 20
"""Bytes of image in a chunk unless asked otherwise; smaller compresses worse, larger costs RAM."""
PAGE = 4096
"""Where a chunk of a disk may begin, so that it can be written with O_DIRECT."""
CHUNK_SIZES = range(64 << 10, (64 << 20) + 1, PAGE)
"""What `chunk_size` may be: whole pages, so that a disk can be written with O_DIRECT."""
MAX_CHUNKS = 1_000_000
FAULTS_SHOWN = 20

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def largest_frame(length: int) -> int:
    """Return the most bytes that a frame of `length` bytes of image may take.

    ZSTD_COMPRESSBOUND (zstd.h) is below this for every length.
    """
    return length + (length >> 8) + 1024


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError("must be at most 128 letters, digits, . _ + or -, no leading dot")
    return text


def _url(text: str) -> str:
    if NAME.fullmatch(text):
        return text
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError(
            "must be a file name (beside the manifest) or an http(s) URL without credentials"
        )
    return text


def _moment(value: object) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is UTC:
        return value.replace(microsecond=0)
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value):
        return datetime.strptime(value, _TIME).replace(tzinfo=UTC)
    raise ValueError("must be a time in UTC such as 2026-12-01T00:00:00Z")


Name = Annotated[str, AfterValidator(_name)]
Url = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_url)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    PlainSerializer(lambda moment: moment.strftime(_TIME), return_type=str),
]


@dataclass(frozen=True, slots=True)
class Chunk:
    """`length` bytes of image at `offset`, stored as one zstd frame of `stored` bytes at `at`.

    `sha256` is of the stored bytes. `zero` says that the image is all zero there: the frame exists
    for plain `zstd -d`, and nobody needs to fetch it. `continues` says that the chunk begins inside
    a tar member that began in an earlier chunk; a tar can be read from any chunk without it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    offset: Size
    length: Annotated[int, Field(gt=0, lt=CHUNK_SIZES.stop)]
    at: Size
    stored: Annotated[int, Field(gt=0, le=largest_frame(CHUNK_SIZES.stop))]
    sha256: Sha256
    zero: bool = False
    continues: bool = False


class Payload(Part):
    """The file of frames. A URL may be a bare file name: beside the manifest, wherever that is."""

    urls: Annotated[tuple[Url, ...], Field(min_length=1, max_length=64)]
    size: Size


class Os(Part):
    """ID, VERSION_ID and ID_LIKE of os-release(5); rolling releases have an empty version."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]{1,64}$")]
    version: Text = ""
    like: tuple[Text, ...] = ()


class Manifest(Part):
    """An image. `size` and `sha256` are of the raw image: the tar stream, or the whole disk."""

    version: Literal[1]
    name: Name
    created: Moment
    kind: Literal["tree", "disk"]
    os: Os | None = None
    size: Annotated[int, Field(gt=0, le=MAX_SIZE)]
    sha256: Sha256
    chunk_size: int
    digest: Literal["sha256"]
    payload: Payload
    tree: Tree | None = None
    chunks: Annotated[tuple[Chunk, ...], Field(min_length=1, max_length=MAX_CHUNKS)]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        faults = tuple(_first(self._faults(), FAULTS_SHOWN))
        if faults:
            text = "; ".join(message for _, message in faults)
            raise PydanticCustomError("faults", "{text}", {"text": text, "faults": faults})
        return self

    def _faults(self) -> Iterator[tuple[str, str]]:
        if self.chunk_size not in CHUNK_SIZES:
            limits = f"from {CHUNK_SIZES.start} to {CHUNK_SIZES.stop - 1}"
            message = f"is {self.chunk_size}, must be a multiple of {CHUNK_SIZES.step} {limits}"
            yield "chunk_size", message
        if (self.kind == "tree") != (self.tree is not None):
            yield "tree", f"must be there for kind tree and no other, the kind is {self.kind}"
        yield from _chunk_faults(self.chunks, self.chunk_size)
        yield from _disk_faults(self.chunks) if self.kind == "disk" else self._tail_faults()
        last = self.chunks[-1]
        if self.size != last.offset + last.length:
            yield "size", f"is {self.size}, the last chunk ends at {last.offset + last.length}"
        if self.payload.size != last.at + last.stored:
            yield (
                "payload.size",
                f"is {self.payload.size}, the last frame ends at {last.at + last.stored}",
            )

    def _tail_faults(self) -> Iterator[tuple[str, str]]:
        if self.chunks[0].continues:
            yield "chunks[0].continues", "must be absent, there is no chunk before it"
        tail = self.tree.tail if self.tree else None
        if tail is None:
            return
        if tail >= len(self.chunks):
            yield "tree.tail", f"is {tail}, the last chunk is {len(self.chunks) - 1}"
        elif self.chunks[tail].continues:
            yield "tree.tail", f"is {tail}, a chunk that begins inside a member"


def _chunk_faults(chunks: Sequence[Chunk], chunk_size: int) -> Iterator[tuple[str, str]]:
    offset = at = 0
    for number, chunk in enumerate(chunks):
        where = f"chunks[{number}]"
        if chunk.offset != offset:
            yield f"{where}.offset", _displaced(chunk.offset, offset, "chunk")
        if chunk.at != at:
            yield f"{where}.at", _displaced(chunk.at, at, "frame")
        if chunk.length > chunk_size:
            yield f"{where}.length", f"is {chunk.length}, a chunk has at most {chunk_size} bytes"
        if chunk.stored > largest_frame(chunk.length):
            most = largest_frame(chunk.length)
            message = f"is {chunk.stored}, a frame of {chunk.length} bytes takes at most {most}"
            yield f"{where}.stored", message
        offset, at = chunk.offset + chunk.length, chunk.at + chunk.stored


def _disk_faults(chunks: Sequence[Chunk]) -> Iterator[tuple[str, str]]:
    for number, chunk in enumerate(chunks):
        if chunk.length % PAGE and number != len(chunks) - 1:
            where = f"chunks[{number}].length"
            yield where, f"is {chunk.length}, must be a multiple of {PAGE} on a disk"
        if chunk.continues:
            yield f"chunks[{number}].continues", "must be absent, a disk has no members"


def _displaced(value: int, expected: int, noun: str) -> str:
    what = f"overlaps the {noun} before it" if value < expected else f"leaves a {noun} out"
    return f"is {value} and {what}, must be {expected}"


def _first(faults: Iterator[tuple[str, str]], limit: int) -> Iterator[tuple[str, str]]:
    for count, fault in enumerate(faults):
        if count == limit:
            yield "", f"has more than {limit} problems"
            return
        yield fault
