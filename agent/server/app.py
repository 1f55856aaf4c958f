"""The server's URLs. Everything that blocks runs in a thread; every body and wait has a bound."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import re
import time
from functools import partial
from pathlib import Path
from urllib.parse import quote

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.applications import Starlette
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
from agent.server import metrics, views
from agent.server.events import BODY_LIMIT, Answer
from agent.server.files import FileResponse, open_below
from agent.server.gate import Gate, Login, client_of, refused
from agent.server.options import Options
from agent.server.plans import Identity, PlanFile
from agent.server.refusal import RefusalError
from agent.server.site import Site
from agent.trust import CHALLENGE, FRESHNESS, answer

log = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""For a whole body to arrive: a batch is a megabyte at most."""
MACS_LIMIT = 64
POSTS_AT_ONCE = 64
"""Batches being parsed or stored; as many go into one transaction at most."""
WAITING_AT_ONCE = 200
"""Batches for whose end the server would need less than a second; more come again later."""
PAUSE_SECONDS = (2.0, 10.0)
_MISTAKES = frozenset({400, 401, 403, 404, 408, 409, 413})
_CHALLENGES = re.compile(r"[0-9a-f]{32,128}")


def create_app(
    directory: Path, signer: SigningKey | None = None, options: Options | None = None
) -> Application:
    """Return the server as an ASGI application over `directory`; docs/serve.md has the layout.

    With `signer` plans that have no signature of their own are signed as they are asked for, and
    challenges for freshness are answered.
    """
    site = Site.open(directory, options or Options(everybody=True))
    limits = site.options.limits
    login = Login(site.operators, limits)
    app = Starlette(
        routes=[
            *views.routes(site.board),
            Route("/healthz", _health),
            Route("/login", login.form, methods=["GET", "POST"]),
            Route("/logout", login.end, methods=["POST"]),
            *([Route("/metrics", _metrics)] if site.options.metrics else []),
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
    app.state.posts = CapacityLimiter(POSTS_AT_ONCE)
    app.state.waiting = set()
    gate = Gate(app, site.operators, limits, everybody=site.options.everybody)
    return Application(gate, site)


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _metrics(request: Request) -> Response:
    return Response(_site(request).metrics.text(), media_type=metrics.TYPE)


def _plan_for(request: Request) -> Response:
    query = request.query_params
    machine = Identity.of(
        query.getlist("mac")[:MACS_LIMIT], query.get("serial", ""), query.get("uuid", "")
    )
    site = _site(request)
    site.options.limits.admit_client(client_of(request.scope))
    try:
        found = site.plans.match(machine)
    except RefusalError:
        if site.tokens.required:
            raise _needs_token() from None
        raise
    return _plan_response(request, found)


def _plan(request: Request) -> ASGIApp:
    name = request.path_params["name"]
    site = _site(request)
    site.options.limits.admit_client(client_of(request.scope))
    if found := site.plans.find(name):
        return _plan_response(request, found)
    if name.endswith(".sig") and (found := site.plans.find(name.removesuffix(".sig"))):
        return _signature(request, found)
    if site.tokens.required:
        raise _needs_token()
    raise RefusalError(404, f"no plan {plain(name, limit=140)}")


def _plan_response(request: Request, found: PlanFile) -> Response:
    content = _content(request, found)
    place = f"/v1/plans/{found.id}"
    if token := request.query_params.get("token"):
        place += f"?token={quote(token)}"  # the signature is asked for at this place
    headers = {"Content-Location": place, "Cache-Control": "no-store"}
    challenge, signer = request.headers.get(CHALLENGE, ""), request.app.state.signer
    if signer is not None and _CHALLENGES.fullmatch(challenge):
        headers[FRESHNESS] = base64.b64encode(answer(signer, challenge, content)).decode()
    return Response(content, media_type="application/yaml", headers=headers)


def _signature(request: Request, found: PlanFile) -> ASGIApp:
    """Return the signature that lies beside the plan, else one made now."""
    signer, content = request.app.state.signer, _content(request, found)
    try:
        return FileResponse(open_below(found.path.parent, f"{found.path.name}.sig"), "plan.sig")
    except RefusalError:
        if signer is None:
            raise
    headers = {"Cache-Control": "no-store"}
    return Response(signer.sign(content), media_type="application/octet-stream", headers=headers)


def _content(request: Request, found: PlanFile) -> bytes:
    """Return a plan as it is served here; raise 401 for who may not have it."""
    tokens = _site(request).tokens
    if not tokens.may_read(found, request.query_params.get("token") or _bearer(request)):
        raise _needs_token()
    return tokens.served(found, request.headers.get("host", ""))


def _needs_token() -> RefusalError:
    return RefusalError(401, "plans are given out for a token only: bedplate token shows it")


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _events_in(request: Request) -> Response:
    began = time.monotonic()
    site, client, token = _site(request), client_of(request.scope), _bearer(request)
    if not token:
        site.options.limits.admit_client(client)
    body = await _body(request)
    plan = request.headers.get("bedplate-plan", "")
    take = partial(_take, site, time.monotonic(), body, token=token, plan=plan, client=client)
    waiting = request.app.state.waiting
    if len(waiting) >= WAITING_AT_ONCE:
        raise _too_busy()
    waiting.add(take)
    try:
        # Threads of their own: downloads shall not wait for the disk, nor the disk for downloads.
        taken = await run_sync(take, limiter=request.app.state.posts)
    finally:
        waiting.discard(take)
    site.metrics.posted(time.monotonic() - began)
    return JSONResponse(taken)


def _take(site: Site, came: float, body: bytes, **about: str) -> Answer:
    """Store a batch, unless it has waited for so long that its sender may soon give up.

    A batch that is stored after its sender gave up comes again: a server with more to do than it
    can would do the same work twice, and get nowhere.
    """
    if time.monotonic() - came > site.options.patience:
        raise _too_busy()
    return site.store.take(body, **about)


def _too_busy() -> RefusalError:
    pause = random.uniform(*PAUSE_SECONDS)  # noqa: S311  # so that they do not come back at once
    return RefusalError(503, "more to do than can be done", retry_after=pause)


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


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    site = _site(request)
    if error.status in _MISTAKES:
        try:
            site.options.limits.charge(client_of(request.scope))
        except RefusalError as too_many:
            error = too_many
    site.metrics.refused(error.status)
    return refused(error)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)


class Application:
    """The whole server. It logs method, path, status and time, never the query or a header."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self.site = site

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
