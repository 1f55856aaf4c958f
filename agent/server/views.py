"""What people look at: the fleet page and its files, its JSON, its live stream.

`routes(board)` is all the application needs. Whoever guards the page guards these routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agent.report.event import PLAN_ID
from agent.report.text import plain
from agent.server import page
from agent.server.board import Board
from agent.server.detail import detail
from agent.server.refusal import RefusalError

SESSION = "bedplate_session"
"""The cookie of an operator who is logged in (`gate`)."""
VIEWERS_LIMIT = 500
PIECE = 32 * 1024
"""Bytes handed to the connection at once: what a reader who does not read can hold up."""
STUCK = 60.0
"""Seconds for one piece; a reader who takes none in that time is let go of."""
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def routes(board: Board) -> list[Route]:
    """Return the routes of the page over `board`."""
    answered = {"/": _page, "/v1/fleet": _fleet, "/v1/fleet/stream": _stream}
    return [
        *(Route(path, _with(board, view)) for path, view in answered.items()),
        Route("/v1/fleet/{plan}", _with(board, _machine)),
        Route("/static/{name}", _static),
    ]


View = Callable[[Board, Request], Awaitable[Any]]


def _with(board: Board, view: View) -> Callable[[Request], Awaitable[Any]]:
    async def answer(request: Request) -> Any:
        return await view(board, request)

    return answer


async def _page(board: Board, request: Request) -> Response:
    def written() -> str:
        return page.render(board.entries(), board.now, logged_in=SESSION in request.cookies)

    headers = {
        "Content-Security-Policy": page.POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(await run_in_threadpool(written), headers=headers)


async def _fleet(board: Board, _: Request) -> Response:
    return _json(await run_in_threadpool(board.document))


async def _machine(board: Board, request: Request) -> Response:
    plan = request.path_params["plan"]
    found = await run_in_threadpool(_found, board, plan) if PLAN_ID.fullmatch(plan) else None
    if found is None:
        raise RefusalError(404, f"no plan {plain(plan, limit=140)}, and no events of one")
    return _json(found)


def _found(board: Board, plan: str) -> dict[str, Any] | None:
    entry = board.entry(plan)
    if entry is None:
        return None
    return {"now": board.now, **entry.document(), **detail(board.fleet.lines(plan) or ())}


async def _stream(board: Board, request: Request) -> EventStream:
    if board.viewers >= VIEWERS_LIMIT:
        raise RefusalError(503, f"{VIEWERS_LIMIT} are looking already")
    last = request.headers.get("last-event-id") or request.query_params.get("last", "")
    return EventStream(board, last)


async def _static(request: Request) -> Response:
    found = STATIC.get(request.path_params["name"])
    if found is None:
        raise RefusalError(404, "no such file")
    content, kind, tag = found
    headers = {"ETag": tag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


def _json(content: dict[str, Any]) -> JSONResponse:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return JSONResponse(content, headers=headers)


def _read() -> dict[str, tuple[bytes, str, str]]:
    found = {}
    for each in files("agent.server").joinpath("web").iterdir():
        kind = TYPES.get(f".{each.name.rpartition('.')[2]}")
        if kind and each.is_file():
            content = each.read_bytes()
            found[each.name] = (content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
    return found


STATIC = _read()


class EventStream:
    """Answers with server-sent events until the reader goes away."""

    def __init__(self, board: Board, last: str) -> None:
        self._board = board
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # nginx would hold the events back
            "x-content-type-options": "nosniff",
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                with contextlib.suppress(TimeoutError):
                    sending.result()
        finally:
            for each in (sending, gone):
                each.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(self._board.frames(self._last)) as frames:
            await _give(send, b"retry: 2000\n\n")
            async for frame in frames:
                for start in range(0, len(frame), PIECE):
                    await _give(send, frame[start : start + PIECE])
        await send({"type": "http.response.body", "body": b""})


async def _give(send: Send, piece: bytes) -> None:
    async with asyncio.timeout(STUCK):
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
