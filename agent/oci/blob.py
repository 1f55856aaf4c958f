"""A blob as a stream: resumed when the connection breaks, and read twice without trusting twice.

A blob's digest is known to be right only at its end. So whoever writes what is in it reads it once
before, and remembers the digest of every block: the second time each block is verified in memory
before a byte of it is used, as with chunks of an image. Blocks that fit into spare memory stay
there from the first time, and are not fetched again.
"""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPResponse
from typing import IO, cast

from agent.errors import ImageError
from agent.oci.patience import patiently
from agent.oci.spare import Spare
from agent.payload.client import PIECE, Client, Filling, read_into, refusal
from agent.payload.options import FetchOptions
from agent.payload.reader import not_encoded
from agent.payload.trouble import Passing, Wrong

BLOCK = 4 << 20
"""Bytes that are verified at once, the second time."""
CORRUPT_TRIES = 2
"""How often a block may come with a bad digest."""


@dataclass(frozen=True)
class Placed:
    """A blob: its digest, its bytes, and where it lies."""

    digest: str
    size: int
    url: str


class Blob:
    """A blob of `size` bytes at `url`; `name` is for messages. One reader at a time.

    `origins` may be sent the bearer token of `options`. Blocks are kept in `spare`.
    """

    def __init__(
        self,
        place: Placed,
        name: str,
        options: FetchOptions,
        origins: frozenset[str] = frozenset(),
        spare: Spare | None = None,
    ) -> None:
        self._url, self._digest, self._size = place.url, place.digest, place.size
        self._name, self._options, self._origins = name, options, origins
        self._spare = spare or Spare()
        self._blocks: tuple[bytes, ...] = ()
        self._kept: dict[int, bytes] = {}

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Yield the blob's bytes, and raise `ImageError` at the end if they were the wrong ones.

        What the caller leaves is read too. A second time every block is verified before it is
        yielded. The next block is fetched while the caller works on one.
        """
        client, stopped = Client(self._options, self._origins), threading.Event()
        with closing(client), ThreadPoolExecutor(1, "layer") as pool:
            try:
                stream = io.BufferedReader(_Blocks(self._ahead(pool, client, stopped)), PIECE)
                yield stream
                while stream.read(PIECE):
                    pass
            except BaseException:
                stopped.set()
                client.abort()
                raise

    def _ahead(
        self, pool: ThreadPoolExecutor, client: Client, stopped: threading.Event
    ) -> Iterator[bytes]:
        whole, found = sha256(), list[bytes]()
        with closing(_Reading(client, self._url, self._size)) as reading:
            numbers = range(-(-self._size // BLOCK))
            bring = functools.partial(self._block, reading, stopped)
            coming: Future[bytes] | None = None
            for number in numbers:
                block = self._again(number)
                if block is None:
                    block = (coming or pool.submit(bring, number)).result()
                coming = None
                if number + 1 in numbers and number + 1 not in self._kept:
                    coming = pool.submit(bring, number + 1)
                if not self._blocks:
                    whole.update(block)
                    found.append(sha256(block).digest())
                    if self._spare.take(len(block)):
                        self._kept[number] = block
                yield block
        if not self._blocks:
            if whole.hexdigest() != self._digest.removeprefix("sha256:"):
                raise ImageError(f"{self._name}: came with the digest sha256:{whole.hexdigest()}")
            self._blocks = tuple(found)

    def _again(self, number: int) -> bytes | None:
        """Return a block that was kept when the blob was verified, and keep it no longer."""
        block = self._kept.pop(number, None)
        if block is not None:
            self._spare.give(len(block))
        return block

    def _block(self, reading: _Reading, stopped: threading.Event, number: int) -> bytes:
        """Return one block; what is known of it must be true."""
        at = number * BLOCK
        buffer = bytearray(min(BLOCK, self._size - at))
        for _ in range(CORRUPT_TRIES):
            filling = Filling(memoryview(buffer))
            self._fill(reading, at, filling, stopped)
            if not self._blocks or sha256(buffer).digest() == self._blocks[number]:
                return bytes(buffer)
            self._options.warn(f"{self._name}: bytes from {at} came with a bad digest")
            reading.close()
        raise ImageError(
            f"{self._name}: bytes {at} to {at + len(buffer) - 1} are not those that were there "
            "when the layer was verified"
        )

    def _fill(self, reading: _Reading, at: int, filling: Filling, stopped: threading.Event) -> None:
        seconds = self._options.request
        patiently(lambda: reading.fill(at, filling, seconds), self._name, self._options, stopped)


class _Reading:
    """One answer that is read from front to back, opened again where it broke off."""

    def __init__(self, client: Client, url: str, size: int) -> None:
        self._client, self._url, self._size = client, url, size
        self._response: HTTPResponse | None = None
        self._position = 0

    def fill(self, at: int, filling: Filling, seconds: float) -> None:
        """Fill from byte `at` on, going on where `filling` stands, or raise `Trouble`."""
        try:
            if self._response is None or self._position != at + filling.done:
                self._open(at + filling.done, seconds)
            assert self._response is not None
            with self._client.reading(seconds):
                before = filling.done
                try:
                    read_into(self._response, filling)
                finally:
                    self._position += filling.done - before
            if filling.left:
                raise Passing(f"cut the connection after {self._position} of {self._size} bytes")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
            self._client.close()

    def _open(self, at: int, seconds: float) -> None:
        self.close()
        headers = {"Range": f"bytes={at}-"} if at else {}
        response = self._client.open(self._url, headers, seconds)
        self._response, self._position = response, at
        not_encoded(response)
        if response.status == 206 and at:
            wanted = f"bytes {at}-{self._size - 1}/{self._size}"
            said = response.headers.get("Content-Range", "").strip()
            if said not in (wanted, wanted.rpartition("/")[0] + "/*"):
                raise Wrong(f"sends the range {said[:80]!r}, asked for was {wanted!r}")
        elif response.status == 200:
            self._position = 0
        else:
            raise refusal(response)
        length = response.length
        if length is not None and length != self._size - self._position:
            raise Wrong(f"has a blob of {length} bytes, the manifest says {self._size}")
        with self._client.reading(seconds):
            while self._position < at:  # it has no ranges
                skipped = len(response.read1(min(PIECE, at - self._position)))
                if not skipped:
                    raise Passing(f"cut the connection after {self._position} bytes")
                self._position += skipped


class _Blocks(io.RawIOBase):
    """Blocks as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._coming, self._block = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        if not self._block:
            self._block = memoryview(next(self._coming, b""))
        size = min(len(view), len(self._block))
        view[:size] = self._block[:size]
        self._block = self._block[size:]
        return size
