"""The page over a real uvicorn, without the rest of the server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from agent.server.board import Board
from agent.server.views import routes
from tests.page.fleet import Memory


def board_of(memory: Memory, *, tick: float = 0.02, beat: float = 10.0) -> Board:
    return Board(memory, memory.changes, clock=memory.clock, tick=tick, beat=beat)


def app_of(board: Board) -> Starlette:
    return Starlette(routes=routes(board))


@contextlib.contextmanager
def served(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """Serve in a thread; yield the URL without a slash at its end."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(
        app, lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=0
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    with listener:
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
