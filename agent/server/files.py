"""Files over HTTP: ranges and validators (RFC 9110 §8.8, §13, §14), nothing from outside."""

from __future__ import annotations

import errno
import os
import re
import stat
from email.utils import formatdate
from pathlib import Path

import anyio
from anyio.to_thread import run_sync
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from agent.server.refusal import RefusalError

PIECE = 1024 * 1024
"""Bytes read at a time: one hop to a thread for each, and the memory a connection takes."""
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_TYPES = {".json": "application/json", ".jsonl": "application/x-ndjson", ".txt": "text/plain"}


def open_below(root: Path, name: str) -> int:
    """Return a descriptor of the regular file `name` in or below `root`.

    Raises `RefusalError` 404 for anything else: `..`, hidden names, links that lead outside,
    directories, devices. `root` must be resolved.
    """
    parts = name.split("/")
    missing = RefusalError(404, "no such file")
    if "\0" in name or any(part == "" or part.startswith(".") for part in parts):
        raise missing
    try:
        path = root.joinpath(*parts).resolve(strict=True)
        if not path.is_relative_to(root):
            raise missing
        # O_NONBLOCK, or opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise RefusalError(503, "too many open files") from error
        raise missing from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise missing
    return descriptor


class FileResponse:
    """Sends one open file, whole or the one range that was asked for, then closes it.

    Several ranges in one request are answered with the whole file, as RFC 9110 §14.2 allows.
    """

    def __init__(self, descriptor: int, name: str, *, cache: bool = True) -> None:
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self._size = found.st_size
        self._etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"'
        self._modified = formatdate(found.st_mtime, usegmt=True)
        self._type = _TYPES.get(Path(name).suffix, "application/octet-stream")
        self._cache = "no-cache" if cache else "no-store"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as an ASGI application."""
        try:
            status, start, end = self._wanted(Headers(scope=scope))
            headers = self._headers(status, start, end)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            if scope["method"] == "HEAD" or start >= end:
                await send({"type": "http.response.body", "body": b""})
            else:
                await self._send(start, end, receive, send)
        finally:
            os.close(self._descriptor)

    def _wanted(self, headers: Headers) -> tuple[int, int, int]:
        """Return the status and the half-open range of bytes to send."""
        if headers.get("if-none-match", "").strip() == self._etag:
            return 304, 0, 0
        match = _RANGE.fullmatch(headers.get("range", "").strip())
        unchanged = headers.get("if-range", self._etag).strip() in (self._etag, self._modified)
        if not match or match[0] == "bytes=-" or not unchanged:
            return 200, 0, self._size
        first, last = match.groups()
        if not first:
            start, end = max(0, self._size - int(last)), self._size
        else:
            start = int(first)
            end = min(int(last) + 1, self._size) if last else self._size
            if last and int(last) < start:
                return 200, 0, self._size  # not a range at all (§14.1.1): as if not given
        return (206, start, end) if start < end else (416, 0, 0)

    def _headers(self, status: int, start: int, end: int) -> list[tuple[bytes, bytes]]:
        headers = {
            "accept-ranges": "bytes",
            "etag": self._etag,
            "last-modified": self._modified,
            "cache-control": self._cache,
            "x-content-type-options": "nosniff",
        }
        if status != 304:
            headers["content-length"] = str(end - start)
            headers["content-type"] = self._type
        if status == 206:
            headers["content-range"] = f"bytes {start}-{end - 1}/{self._size}"
        elif status == 416:
            headers["content-range"] = f"bytes */{self._size}"
        return [(key.encode(), value.encode()) for key, value in headers.items()]

    async def _send(self, start: int, end: int, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:

            async def stop_when_gone() -> None:
                # uvicorn takes what is sent to nobody without a word; a payload is gigabytes.
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_when_gone)
            while start < end:
                piece = await run_sync(os.pread, self._descriptor, min(PIECE, end - start), start)
                if not piece:
                    raise EOFError("the file became shorter while it was sent")
                start += len(piece)
                more = start < end
                await send({"type": "http.response.body", "body": piece, "more_body": more})
            tasks.cancel_scope.cancel()
