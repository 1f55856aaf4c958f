"""The gate before what operators look at: everything but what machines need.

Machines reach plans, images, a place for events, and nothing else. Whatever else the server has
(the fleet, events, metrics) needs an operator's session or his password, so that a page that is
added later is behind the gate too.
"""

from __future__ import annotations

import base64
from http.cookies import CookieError, SimpleCookie
from string import Template
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.server.limits import Limits, client_key, refuse
from agent.server.operators import SESSION_SECONDS, Operators
from agent.server.refusal import RefusalError

COOKIE = "bedplate_session"
FORM_LIMIT = 4096
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Bedplate: log in</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
form { margin: 15vh auto 0; max-width: 18rem; padding: 0 1rem; display: grid; gap: .8rem }
h1 { font-size: 1.2rem; margin: 0 }
label { display: grid; gap: .2rem }
input, button { font: inherit; padding: .5rem; border: 1px solid #8888; border-radius: .3rem }
[role=alert] { color: #d3322c; margin: 0 }
</style>
</head>
<body>
<form method="post">
<h1>Bedplate</h1>
$problem
<label>Name <input name="name" autocomplete="username" required autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required>
</label>
<button>Log in</button>
</form>
</body>
</html>
""")


class Gate:
    """Lets machines through to what is theirs, and operators to the rest.

    Without `operators` the rest is open to everybody if `everybody` says so, else to nobody.
    """

    def __init__(
        self, app: ASGIApp, operators: Operators | None, limits: Limits, *, everybody: bool
    ) -> None:
        self._app = app
        self._operators = operators
        self._limits = limits
        self._open = everybody and operators is None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._open or _is_for_machines(scope):
            await self._app(scope, receive, send)
            return
        if self._operators is None:
            text = (
                "closed: this server was started without operators; give it --operators FILE "
                "(made by bedplate operator add), or --open to show the fleet to everybody\n"
            )
            await PlainTextResponse(text, 403)(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            name = await self._operator(headers, client_of(scope))
        except RefusalError as refusal:
            await refused(refusal)(scope, receive, send)
            return
        if name is not None:
            await self._app(scope, receive, send)
            return
        await _ask(scope, headers)(scope, receive, send)

    async def _operator(self, headers: Headers, client: str) -> str | None:
        assert self._operators is not None
        cookie = _cookie(headers.get("cookie", ""))
        if cookie and (name := self._operators.of_session(cookie)):
            return name
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        self._limits.admit_client(client)
        try:
            name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:  # neither base64 nor UTF-8, or not even ASCII
            return None
        if await run_in_threadpool(self._operators.admits, name, password):
            return name
        self._limits.charge(client)
        return None


class Login:
    """`/login` and `/logout`."""

    def __init__(self, operators: Operators | None, limits: Limits) -> None:
        self._operators = operators
        self._limits = limits

    async def form(self, request: Request) -> Response:
        """Show the form, or take it."""
        if self._operators is None:
            return RedirectResponse("/", 303)
        if request.method != "POST":
            return _form("")
        _refuse_strangers(request)
        refuse(self._limits.logins.take(client_of(request.scope)), "too many attempts to log in")
        fields = await _fields(request)
        name = fields.get("name", "")
        if not await run_in_threadpool(self._operators.admits, name, fields.get("password", "")):
            return _form("Wrong name or password", 403)
        answer = RedirectResponse(_next(request.query_params.get("next", "")), 303)
        answer.set_cookie(
            COOKIE,
            self._operators.session(name),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer

    async def end(self, request: Request) -> Response:
        """Forget the session in this browser."""
        _refuse_strangers(request)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
        return answer


def client_of(scope: Scope) -> str:
    """Return who asks, as the limits count them."""
    return client_key((scope.get("client") or ("",))[0])


def refused(refusal: RefusalError) -> Response:
    """Return the answer that says no."""
    headers = {"X-Content-Type-Options": "nosniff"}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after:
        headers["Retry-After"] = str(int(refusal.retry_after) + 1)
    return PlainTextResponse(f"{refusal.message}\n", refusal.status, headers)


def _is_for_machines(scope: Scope) -> bool:
    path: str = scope["path"]
    if path == "/v1/events":
        return bool(scope["method"] == "POST")
    exact = {"/v1/plan", "/healthz", "/login", "/logout"}
    return path in exact or path.startswith(("/v1/plans/", "/images/"))


def _ask(scope: Scope, headers: Headers) -> Response:
    """Send a browser to the form; tell a program which password is wanted."""
    if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
        place = scope["path"] + ("?" + scope["query_string"].decode("latin-1")).rstrip("?")
        return RedirectResponse(f"/login?next={quote(place, safe='')}", 303)
    # A browser would ask for a password over the page whose session has ended; its script goes to
    # the form instead. Browsers alone send Fetch Metadata.
    script = "sec-fetch-mode" in headers
    challenge = {} if script else {"WWW-Authenticate": 'Basic realm="bedplate", charset="UTF-8"'}
    return PlainTextResponse("needs an operator's name and password\n", 401, challenge)


def _cookie(text: str) -> str:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(text)
    except CookieError:
        return ""
    return jar[COOKIE].value if COOKIE in jar else ""


def _refuse_strangers(request: Request) -> None:
    """Raise 403 when another site's page sent the form (Fetch Metadata, W3C)."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RefusalError(403, "the form of another site")


async def _fields(request: Request) -> dict[str, str]:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_LIMIT:
            raise RefusalError(413, f"a form may have at most {FORM_LIMIT} bytes")
    try:
        found = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        raise RefusalError(400, "not the form of this page") from None
    return {name: values[0] for name, values in found.items()}


def _form(problem: str, status: int = 200) -> Response:
    shown = f'<p role="alert">{problem}</p>' if problem else ""
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(_PAGE.substitute(problem=shown), status, headers)


def _next(place: str) -> str:
    """Return where to go after the form: here, never to another site."""
    plain = place.startswith("/") and not place.startswith(("//", "/\\")) and place.isprintable()
    return place if plain else "/"
