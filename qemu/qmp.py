"""QEMU's control protocol (QMP): commands, human monitor commands, and time-stamped events.

Described in QEMU's docs/interop/qmp-spec: one JSON object a line; a greeting first, then answers
in the order of the commands, with events between them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qemu.errors import ConnectionLostError, RigError, WaitTimeoutError


@dataclass(frozen=True)
class Event:
    """Something QEMU reported: SHUTDOWN, RESET, DEVICE_DELETED …; `at` is time.monotonic()."""

    name: str
    at: float
    details: dict[str, Any] = field(default_factory=dict)


class Qmp:
    """The client's end of a QMP connection, on a connected socket."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._numbers = itertools.count(1)
        self._one_at_a_time = threading.Lock()
        self._change = threading.Condition()
        self._closed = False
        self.events: list[Event] = []
        self._thread = threading.Thread(target=self._read, name="qmp", daemon=True)
        self._thread.start()

    def negotiate(self, timeout: float = 30) -> None:
        """Wait for QEMU's greeting and leave the negotiation mode."""
        self._answer("greeting", None, timeout)
        self.execute("qmp_capabilities")

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float = 60
    ) -> Any:
        """Run a command and return its result; RigError when QEMU refuses."""
        with self._one_at_a_time:
            number = next(self._numbers)
            question = {"execute": command, "arguments": arguments or {}, "id": number}
            try:
                self._link.sendall(json.dumps(question).encode() + b"\n")
            except OSError as error:
                raise ConnectionLostError(f"qmp: {command}: QEMU is gone") from error
            answer = self._answer(command, number, timeout)
        if "error" in answer:
            raise RigError(f"qmp: {command}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]

    def hmp(self, line: str, timeout: float = 120) -> str:
        """Run a command of the human monitor and return what it prints; it has no status."""
        result = self.execute("human-monitor-command", {"command-line": line}, timeout)
        assert isinstance(result, str)
        return result

    def wait(self, name: str, timeout: float, since: float = 0, **details: Any) -> Event:
        """Wait for an event of this name that came after `since` and has these details."""
        deadline = time.monotonic() + timeout
        with self._change:
            while True:
                for event in self.events:
                    fits = details.items() <= event.details.items()
                    if event.name == name and event.at >= since and fits:
                        return event
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    why = "QEMU is gone" if self._closed else f"not within {timeout:g} s"
                    raise WaitTimeoutError(f"qmp: event {name}: {why}")
                self._change.wait(left)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._link.close()

    def _answer(self, command: str, number: int | None, timeout: float) -> dict[str, Any]:
        """Return the answer with this number; later than its own timeout, an answer is dropped."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = self._answers.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                raise WaitTimeoutError(f"qmp: {command}: no answer within {timeout:g} s") from None
            if not answer:
                self._answers.put({})
                raise ConnectionLostError(f"qmp: {command}: QEMU is gone")
            if answer.get("id") == number:
                return answer

    def _read(self) -> None:
        try:
            with self._link.makefile("rb") as lines:
                for line in lines:
                    self._take(json.loads(line))
        except (OSError, ValueError):
            pass  # closed under us, or cut in the middle of a line: the same end
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._answers.put({})

    def _take(self, message: dict[str, Any]) -> None:
        if "event" not in message:
            self._answers.put(message)
            return
        event = Event(message["event"], time.monotonic(), message.get("data", {}))
        with self._change:
            self.events.append(event)
            self._change.notify_all()
