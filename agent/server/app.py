"""The server's URLs. Everything that blocks runs in a thread; every body and wait has a bound."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.payload.sign import SigningKey
from agent.report.event import PLAN_ID
from agent.report.text import plain
from agent.server import views
from agent.server.board import Board
from agent.server.changes import Changes
from agent.server.database import FILE, Database
from agent.server.events import BODY_LIMIT, EventStore
from agent.server.files import FileResponse, open_below
from agent.server.plans import Identity, PlanFile, PlanStore
from agent.server.refusal import RefusalError
from agent.trust import CHALLENGE, FRESHNESS, answer

log = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""For a whole body to arrive: a batch is a megabyte at most."""
MACS_LIMIT = 64
_CHALLENGES = re.compile(r"[0-9a-f]{32,128}")


@dataclass(frozen=True)
class Site:
    """The served directory: where things lie, and the stores over them."""

    images: Path
    plans: PlanStore
    store: EventStore
    board: Board

    @classmethod
    def open(cls, directory: Path) -> Site:
        """Use `directory`, making `plans`, `images`, `events` and `escrow` where they are missing.

        Raises `OSError` where that is not possible.
        """
        root = directory.resolve(strict=True)
        for name, mode in {
            "plans": 0o755,
            "images": 0o755,
            "events": 0o750,
            "escrow": 0o700,
        }.items():
            (root / name).mkdir(mode=mode, exist_ok=True)
        # Each may be a link to elsewhere; links inside them may not lead out of them.
        plans = PlanStore((root / "plans").resolve())
        events, escrow = (root / "events").resolve(), (root / "escrow").resolve()
        changes = Changes()
        store = EventStore(
            events, escrow, plans, database=Database.sqlite(root / FILE), changes=changes
        )
        return cls((root / "images").resolve(), plans, store, Board(store, changes))


def create_app(directory: Path, signer: SigningKey | None = None) -> ASGIApp:
    """Return the server as an ASGI application over `directory`; docs/serve.md has the layout.

    With `signer` plans that have no signature of their own are signed as they are asked for, and
    challenges for freshness are answered.
    """
    site = Site.open(directory)
    app = Starlette(
        routes=[
            *views.routes(site.board),
            Route("/healthz", _health),
            Route("/v1/plan", _plan_for),
            Route("/v1/plans/{name}", _plan),
            Route("/v1/events", _events_in, methods=["POST"]),
            Route("/v1/events", _events_out),
            Route("/images/{name:path}", _image),
        ],
        exception_handlers={RefusalError: _refused, HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    app.state.site = site
    app.state.signer = signer
    return _Logged(app)


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _plan_for(request: Request) -> Response:
    query = request.query_params
    machine = Identity.of(
        query.getlist("mac")[:MACS_LIMIT], query.get("serial", ""), query.get("uuid", "")
    )
    return _plan_response(request, _site(request).plans.match(machine))


def _plan(request: Request) -> ASGIApp:
    name = request.path_params["name"]
    plans = _site(request).plans
    if found := plans.find(name):
        return _plan_response(request, found)
    if name.endswith(".sig") and (found := plans.find(name.removesuffix(".sig"))):
        return _signature(request, found)
    raise RefusalError(404, f"no plan {plain(name, limit=140)}")


def _plan_response(request: Request, found: PlanFile) -> Response:
    headers = {"Content-Location": f"/v1/plans/{found.id}", "Cache-Control": "no-store"}
    challenge, signer = request.headers.get(CHALLENGE, ""), request.app.state.signer
    if signer is not None and _CHALLENGES.fullmatch(challenge):
        headers[FRESHNESS] = base64.b64encode(answer(signer, challenge, found.content)).decode()
    return Response(found.content, media_type="application/yaml", headers=headers)


def _signature(request: Request, found: PlanFile) -> ASGIApp:
    """Return the signature that lies beside the plan, else one made now."""
    signer = request.app.state.signer
    try:
        return FileResponse(open_below(found.path.parent, f"{found.path.name}.sig"), "plan.sig")
    except RefusalError:
        if signer is None:
            raise
    headers = {"Cache-Control": "no-store"}
    return Response(
        signer.sign(found.content), media_type="application/octet-stream", headers=headers
    )


async def _events_in(request: Request) -> Response:
    body = await _body(request)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    answer = await run_in_threadpool(
        _site(request).store.take,
        body,
        token=token.strip() if scheme.lower() == "bearer" else "",
        plan=request.headers.get("bedplate-plan", ""),
    )
    return JSONResponse(answer)


def _events_out(request: Request) -> ASGIApp:
    plan = request.query_params.get("plan", "")
    if not PLAN_ID.fullmatch(plan):
        raise RefusalError(400, "plan: give a plan's id, as in /v1/events?plan=ID")
    found = _site(request).store.lines(plan)
    if found is None:
        raise RefusalError(404, f"plan {plan}: no event came")
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(found, media_type="application/x-ndjson", headers=headers)


def _image(request: Request) -> ASGIApp:
    name = request.path_params["name"]
    return FileResponse(open_below(_site(request).images, name), name)


async def _body(request: Request) -> bytes:
    """Return the whole body; raise `RefusalError` 413 or 408 when it is too much or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > BODY_LIMIT:
                    raise RefusalError(413, f"a batch may have at most {BODY_LIMIT} bytes")
    except TimeoutError:
        raise RefusalError(408, f"the body did not arrive in {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise RefusalError(400, "the body broke off") from None
    return bytes(body)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    headers = {"X-Content-Type-Options": "nosniff"}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return PlainTextResponse(f"{error.message}\n", error.status, headers)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)


class _Logged:
    """Logs one line a request: method, path, status, time. Never the query or a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            client = (scope.get("client") or ("-",))[0]
            took = (time.monotonic() - began) * 1000
            path = plain(scope["path"], limit=200)
            log.info("%s %s %s %d %.0f ms", client, scope["method"], path, status, took)
