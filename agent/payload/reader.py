"""Read a part of the payload from a mirror, and hold the mirror to what HTTP promises."""

from __future__ import annotations

import os
import re
from http.client import HTTPResponse
from urllib.parse import unquote, urlsplit

from agent.payload.client import PIECE, Client, Filling, read_into, refusal
from agent.payload.manifest import Chunk
from agent.payload.mirrors import DIGEST, Mirror
from agent.payload.trouble import Passing, Trouble, Unranged, Wrong

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
FICKLE = 3
"""Replacements after which ETags of a mirror mean nothing: a farm whose servers disagree."""
_FRESH = {"Cache-Control": "no-cache"}


class Replaced(Passing):
    """The file changed since the last request: what came before must not be mixed with it."""


class Reader:
    """One connection's way to read; `size` is of the whole payload, from the manifest."""

    def __init__(self, client: Client, size: int) -> None:
        self._client, self._size = client, size
        self._open: tuple[Mirror, HTTPResponse] | None = None
        self._position = 0

    def read(
        self, mirror: Mirror, chunk: Chunk, filling: Filling, *, seconds: float, fresh: bool
    ) -> None:
        """Fill with the chunk's frame, going on where `filling` stands, or raise `Trouble`.

        `fresh` asks caches on the way to look again: what they gave before was bad.
        """
        at = chunk.at
        if mirror.by_digest:
            self._read_blob(mirror, chunk, filling, seconds, _FRESH if fresh else {})
        elif urlsplit(mirror.url).scheme == "file":
            _read_file(mirror.url, at, filling, self._size)
        elif mirror.ranged:
            self._read_range(mirror, at, filling, seconds, _FRESH if fresh else {})
        else:
            self._read_on(mirror, at, filling, seconds, _FRESH if fresh else {})

    def close(self) -> None:
        """Let go of an answer that was not read to its end."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _read_blob(
        self,
        mirror: Mirror,
        chunk: Chunk,
        filling: Filling,
        seconds: float,
        more: dict[str, str],
    ) -> None:
        """Read a file that holds this frame and nothing else; its name says what must be in it."""
        headers = {"Range": f"bytes={filling.done}-", **more} if filling.done else more
        url = mirror.url.replace(DIGEST, chunk.sha256)
        with self._client.get(url, headers, seconds) as response:
            not_encoded(response)
            if response.status == 200:
                filling.done = 0
            elif response.status == 206 and filling.done:
                _check_range(response, filling.done, chunk.stored - 1, chunk.stored)
            elif response.status == 404:
                raise Wrong(f"answered 404 {response.reason} for sha256:{chunk.sha256}")
            else:
                raise refusal(response)
            if response.length not in (None, filling.left):
                raise Wrong(
                    f"has a blob of {response.length} bytes for sha256:{chunk.sha256}, the "
                    f"manifest says {filling.left}"
                )
            read_into(response, filling)
            if filling.left:
                raise _cut(filling)

    def _read_range(
        self, mirror: Mirror, at: int, filling: Filling, seconds: float, more: dict[str, str]
    ) -> None:
        first, last = at + filling.done, at + filling.done + filling.left - 1
        headers = {"Range": f"bytes={first}-{last}", **more}
        # Only where what came before must not be mixed with what comes now: nginx's slice module
        # reads the file's first slice as well for every request that has If-Range. Of a request
        # for a whole frame the answer's ETag says as much, and its digest says everything.
        if filling.done and mirror.etag is not None:
            headers["If-Range"] = mirror.etag
        with self._client.get(mirror.url, headers, seconds) as response:
            not_encoded(response)
            if response.status == 200:
                raise self._whole(mirror, response)
            if response.status == 416:
                there = response.headers.get("Content-Range", "unknown").rpartition("/")[2]
                raise Wrong(f"has a payload of {there} bytes, the manifest says {self._size}")
            if response.status != 206:
                raise refusal(response)
            _check_range(response, first, last, self._size)
            _check_etag(mirror, response)
            read_into(response, filling)
            if filling.left:
                raise _cut(filling)

    def _whole(self, mirror: Mirror, response: HTTPResponse) -> Exception:
        """Say what a 200 means that answers a request for a range."""
        etag = _etag(response)
        if mirror.etag is not None and etag != mirror.etag:
            return _replaced(mirror, etag)
        kind = response.headers.get_content_type()
        length = response.length
        if length == self._size or (length is None and kind != "text/html"):
            return Unranged("sends the whole payload, whatever range is asked for")
        count = "bytes without end" if length is None else f"{length} bytes"
        return Wrong(
            f"answered 200 with {count} of {kind} instead of a part of the {self._size} bytes"
        )

    def _read_on(
        self, mirror: Mirror, at: int, filling: Filling, seconds: float, more: dict[str, str]
    ) -> None:
        """Read from the one answer that holds the whole payload, opening it again if need be."""
        at += filling.done
        if self._open is None or self._open[0] is not mirror or self._position > at or more:
            self._reopen(mirror, seconds, more)
        assert self._open is not None
        response = self._open[1]
        try:
            with self._client.reading(seconds):
                while self._position < at:
                    skipped = len(response.read1(min(PIECE, at - self._position)))
                    if not skipped:
                        raise _cut(filling)
                    self._position += skipped
                done = filling.done
                try:
                    read_into(response, filling)
                finally:
                    self._position += filling.done - done
                if filling.left:
                    raise _cut(filling)
        except BaseException:
            self.close()
            raise

    def _reopen(self, mirror: Mirror, seconds: float, more: dict[str, str]) -> None:
        self.close()
        self._client.close()
        self._open = mirror, self._client.open(mirror.url, more, seconds)
        self._position = 0
        response = self._open[1]
        try:
            if response.status != 200:
                raise refusal(response)
            not_encoded(response)
            size = response.length
            if size is not None and size != self._size:
                raise Wrong(f"has a payload of {size} bytes, the manifest says {self._size}")
        except Trouble:
            self.close()
            raise


def _read_file(url: str, at: int, filling: Filling, whole: int) -> None:
    try:
        file = os.open(unquote(urlsplit(url).path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            if size != whole:
                raise Wrong(f"has a payload of {size} bytes, the manifest says {whole}")
            while filling.left:
                piece = os.pread(file, min(PIECE, filling.left), at + filling.done)
                if not piece:
                    raise _cut(filling)
                filling.add(piece)
        finally:
            os.close(file)
    except OSError as error:
        raise Wrong(f"cannot be read: {error.strerror}") from None


def _check_range(response: HTTPResponse, first: int, last: int, size: int) -> None:
    text = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is not None and match[3] not in ("*", str(size)):
        raise Wrong(f"has a payload of {match[3]} bytes, the manifest says {size}")
    if match is None or (int(match[1]), int(match[2])) != (first, last):
        raise Wrong(f"sends the range {text[:80]!r}, asked for was bytes {first}-{last}")
    length = response.length
    if length is not None and length != last - first + 1:
        raise Wrong(f"announces {length} bytes for a range of {last - first + 1}")


def not_encoded(response: HTTPResponse) -> None:
    """Refuse a body that is not the file's own bytes."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity") and response.status in (200, 206):
        raise Wrong(f"encodes the payload on its way ({encoding}), which ranges do not survive")


def _etag(response: HTTPResponse) -> str | None:
    """Return a strong validator; a weak one says nothing of bytes (RFC 9110 §13.1.5)."""
    etag: str | None = response.headers.get("ETag")
    return etag if etag is not None and re.fullmatch(r'"[\x21\x23-\x7e]*"', etag) else None


def _check_etag(mirror: Mirror, response: HTTPResponse) -> None:
    """Notice a file that was replaced behind a server that knows no If-Range."""
    etag = _etag(response)
    if mirror.etag is not None and etag is not None and etag != mirror.etag:
        raise _replaced(mirror, etag)
    if mirror.replaced < FICKLE:
        mirror.etag = etag


def _replaced(mirror: Mirror, etag: str | None) -> Replaced:
    was, mirror.etag = mirror.etag, None
    mirror.replaced += 1
    return Replaced(f"replaced the payload while it was read (ETag {etag}, was {was})")


def _cut(filling: Filling) -> Passing:
    total = filling.done + filling.left
    return Passing(f"cut the connection after {filling.done} of {total} bytes")
