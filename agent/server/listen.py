"""Run the server: in the foreground for `bedplate serve`, in a thread for tests and the demo."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from agent.errors import MachineError, Problem
from agent.payload.sign import SigningKey
from agent.report.text import counted
from agent.server.app import Application, create_app
from agent.server.board import Board
from agent.server.options import Options

log = logging.getLogger(__name__)

CONNECTIONS_LIMIT = 2000
SHUTDOWN_SECONDS = 1


@dataclass(frozen=True)
class Tls:
    """PEM files of the server's certificate chain and its key."""

    certificate: Path
    key: Path


def serve(
    directory: Path,
    listen: str = "127.0.0.1:8080",
    *,
    tls: Tls | None = None,
    signer: SigningKey | None = None,
    announce: Callable[[str], object] | None = None,
    options: Options | None = None,
) -> None:
    """Serve `directory` on `listen` (`HOST:PORT`, `:PORT` or `PORT`) until SIGTERM or SIGINT.

    Returns at most two seconds after the signal. `announce` gets one line once connections are
    taken; by default it goes to stdout. Raises `MachineError` when the directory or the address
    cannot be used. `signer` signs plans that have no signature of their own.
    """
    app, server, listener, url = _prepare(directory, listen, tls, signer, options or Options())
    # Threads that parse give way to the one that talks to the network five times as soon.
    sys.setswitchinterval(0.001)
    with closing(app.site), listener, _until_signalled(server):
        (announce or _to_stdout)(_sentence(directory, url, app.site.store.database.name))
        asyncio.run(server.serve(sockets=[listener]))


@contextlib.contextmanager
def running(
    directory: Path,
    listen: str = "127.0.0.1:0",
    *,
    tls: Tls | None = None,
    signer: SigningKey | None = None,
    options: Options | None = None,
) -> Iterator[str]:
    """Serve in a thread for the length of the context; yield the URL without a slash at its end."""
    app, server, listener, url = _prepare(directory, listen, tls, signer, options or Options())
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), name="serve"
    )
    with closing(app.site), listener:
        thread.start()
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join()


def _prepare(
    directory: Path, listen: str, tls: Tls | None, signer: SigningKey | None, options: Options
) -> tuple[Application, uvicorn.Server, socket.socket, str]:
    host, port = _address(listen)
    with _listener(host, port) as listener:
        address, bound = listener.getsockname()[:2]
        if ipaddress.ip_address(address).is_loopback:
            options = replace(options, everybody=True)
        elif options.operators is None and not options.everybody:
            log.warning("the fleet is shown to nobody: give --operators FILE, or --open")
        try:
            app = create_app(directory, signer, options)
        except OSError as error:
            raise MachineError([Problem(str(directory), error.strerror or str(error))]) from error
        try:
            server = _Server(_config(app, tls, options), app.site.board)
        except MachineError:
            app.site.close()
            raise
        shown = f"[{host}]" if ":" in host else host
        url = f"{'https' if tls else 'http'}://{shown}:{bound}"
        return app, server, socket.socket(fileno=listener.detach()), url


def _config(app: ASGIApp, tls: Tls | None, options: Options) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        # Its own log of accesses has the query in it; ours has not. Whoever takes every logger's
        # records would still get it, so its level is raised too.
        log_level="warning",
        server_header=False,
        proxy_headers=bool(options.proxies),
        forwarded_allow_ips=list(options.proxies),
        limit_concurrency=CONNECTIONS_LIMIT,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        h11_max_incomplete_event_size=32 * 1024,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        where = str(tls.certificate) if tls else "server"
        raise MachineError([Problem(where, error.strerror or str(error))]) from error
    return config


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or ("0.0.0.0" if colon else "127.0.0.1")  # noqa: S104  # `:8080` says so
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise MachineError([Problem("listen", f"must be HOST:PORT, not {listen!r}")])
    return host, int(port)


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise MachineError(
            [Problem("listen", f"{host}:{port}: {error.strerror or error}")]
        ) from error
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, board: Board) -> None:
        super().__init__(config)
        self._board = board

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the page's viewers go first; their streams would be cut off, with an error each."""
        self._board.end()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_until_signalled`: uvicorn raises them again after its shutdown."""
        yield


@contextlib.contextmanager
def _until_signalled(server: uvicorn.Server) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        # A second signal does not wait for anybody.
        server.force_exit = server.should_exit
        server.should_exit = True

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _sentence(directory: Path, url: str, where: str) -> str:
    plans = sum(1 for path in (directory / "plans").glob("*.y*ml"))
    images = sum(1 for path in (directory / "images").rglob("*") if path.is_file())
    return (
        f"{url}/ serves {counted(plans, 'plan')} and {counted(images, 'image file')} "
        f"of {directory.resolve()}; "
        f"events go to {where}"
    )


def _to_stdout(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
