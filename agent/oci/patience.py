"""Ask a registry again while that may help, as long as the options allow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from agent.errors import ImageError
from agent.payload.options import FetchOptions
from agent.payload.trouble import Passing, Trouble

Out = TypeVar("Out")
LONGEST = 10.0
"""Seconds between two tries, unless the registry asks for more (Retry-After)."""


def patiently(
    request: Callable[[], Out],
    name: str,
    options: FetchOptions,
    stopped: threading.Event | None = None,
) -> Out:
    """Return what `request` returns; it is called again after `Passing` trouble.

    Gives up after `options.patience` seconds, or when `stopped` is set, and raises `ImageError`
    that begins with `name`: what the request is for.
    """
    until = time.monotonic() + options.patience
    jitter = wait_random_exponential(multiplier=0.25, max=LONGEST)
    ended = stopped or threading.Event()

    def nap(state: RetryCallState) -> float:
        trouble = state.outcome.exception() if state.outcome else None
        rest = trouble.rest if isinstance(trouble, Passing) else None
        return min(jitter(state) + (rest or 0.0), max(0.0, until - time.monotonic()))

    def sleep(seconds: float) -> None:
        ended.wait(seconds)

    said: list[str] = []

    def tell(state: RetryCallState) -> None:
        trouble = str(state.outcome.exception()) if state.outcome else ""
        if trouble not in said[-1:] and not ended.is_set():
            said.append(trouble)
            patience = f"for up to {options.patience:g} s"
            options.warn(f"{name}: {trouble}, trying again {patience}")

    retrying = Retrying(
        retry=retry_if_exception_type(Passing),
        wait=nap,
        stop=lambda state: ended.is_set() or time.monotonic() >= until,
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )
    try:
        return retrying(request)
    except Trouble as trouble:
        raise ImageError(f"{name}: {trouble}") from None
