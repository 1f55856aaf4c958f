"""A request that is answered with no."""

from __future__ import annotations


class RefusalError(Exception):
    """Answered with `status` and `message` as plain text; nothing was changed.

    `retry_after` is in seconds, 0 where it makes no difference when one asks again.
    """

    def __init__(self, status: int, message: str, *, retry_after: float = 0.0) -> None:
        self.status = status
        self.message = message
        self.retry_after = retry_after
        super().__init__(f"{status} {message}")
