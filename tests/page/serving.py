"""The page over a real uvicorn, without the rest of the server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from agent.server.board import Board
from agent.server.refusal import RefusalError
from agent.server.views import routes
from tests.page.fleet import Memory


def board_of(memory: Memory, *, tick: float = 0.02, beat: float = 10.0) -> Board:
    return Board(memory, memory.changes, clock=memory.clock, tick=tick, beat=beat)


def app_of(board: Board) -> Starlette:
    def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusalError)
        return PlainTextResponse(error.message, error.status)

    app = Starlette(routes=routes(board), exception_handlers={RefusalError: refused})
    app.state.board = board
    return app


class _Server(uvicorn.Server):
    def __init__(self, app: Starlette) -> None:
        config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
        super().__init__(config)
        self._board: Board = app.state.board

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._board.end()
        await super().shutdown(sockets)


@contextlib.contextmanager
def served(app: Starlette, port: int = 0) -> Iterator[str]:
    """Serve in a thread; yield the URL without a slash at its end."""
    listener = socket.create_server(("127.0.0.1", port))
    server = _Server(app)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    with listener:
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
