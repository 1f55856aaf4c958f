"""A sink in a thread of its own, so that a stuck terminal cannot stop an install.

A serial console with flow control blocks its writer for as long as the other end likes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from agent.report.buffer import EventBuffer
from agent.report.event import Event
from agent.report.sink import Closes, Sink, Ticks

log = logging.getLogger(__name__)


class Background:
    """Hands events to `sink` in another thread, in order; calling it never blocks."""

    def __init__(
        self, sink: Sink, name: str = "console", unblock: Callable[[], None] | None = None
    ) -> None:
        self._sink = sink
        self._name = name
        self._unblock = unblock
        self._abandoned = False
        self._buffer = EventBuffer(progress_kept=20)
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"events-{name}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        self._buffer.put(event)

    def close(self, timeout: float) -> None:
        """Give the sink up to `timeout` seconds to show what is left; then leave it behind.

        `unblock` is called then: whoever closes the stream would wait for the stuck writer.
        """
        deadline = time.monotonic() + timeout
        self._buffer.close()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("%s: does not take what is written to it", self._name)
            self._abandoned = True
            if self._unblock:
                self._unblock()
                self._thread.join(1.0)
        elif isinstance(self._sink, Closes):
            self._sink.close(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        pause: float | None = None
        while self._buffer.wait(pause) or not self._buffer.closed:
            for event in self._buffer.take(20, 1 << 20):
                if self._abandoned:
                    return
                self._show(event)
            pause = self._tick()
            self._buffer.settle()

    def _show(self, event: Event) -> None:
        try:
            self._sink(event)
        except Exception:
            self._blame()

    def _tick(self) -> float | None:
        if not isinstance(self._sink, Ticks):
            return None
        try:
            return self._sink.tick()
        except Exception:
            self._blame()
            return 5.0

    def _blame(self) -> None:
        if not self._failed:
            self._failed = True
            log.warning("%s: cannot show events", self._name, exc_info=True)
