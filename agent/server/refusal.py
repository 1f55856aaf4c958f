"""A request that is answered with no."""

from __future__ import annotations


class RefusalError(Exception):
    """Answered with `status` and `message` as plain text; nothing was changed."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(f"{status} {message}")
