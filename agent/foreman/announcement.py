"""Tell Foreman of a machine that it does not know, and hear what it says to that.

With auto-provisioning Foreman calls back inside the upload, before it answers that: so the listener
is there before the first upload, and the upload has a thread of its own.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from agent.foreman.address import Server
from agent.foreman.facts import facts, has_address
from agent.foreman.listener import PORT, Listener
from agent.foreman.order import Order, kexec_order
from agent.foreman.talk import JSON, Answer, SilenceError, Talk
from agent.inventory.model import Inventory
from agent.report.text import plain

log = logging.getLogger(__name__)

ANSWER_SECONDS = 240.0
"""For the answer to an upload: auto-provisioning happens inside it, with several callbacks that may
take 20 s each."""


@dataclass(frozen=True)
class Myself:
    """Who is announced: by which card, and with which facts that the command line adds."""

    mac: str
    """Empty until it is settled, where nobody says which card it is."""
    machine: Callable[[], Inventory]
    more: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return the facts as they are now."""
        return facts(self.machine(), self.mac, self.more)


class Announcement:
    """A context: while it lasts, the port is open once the first upload was begun.

    What Foreman orders is put into `orders`, and None where only a new look is worth while. Uploads
    are `again` seconds apart, or `retry` after one that Foreman did not take.
    """

    def __init__(
        self, server: Server, myself: Myself, talk: Talk, *, again: float, retry: float, port: int
    ) -> None:
        self.orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._server, self._myself = server, myself
        self._talk = replace(talk, patience=ANSWER_SECONDS)
        self._again, self._retry, self._port = again, retry, port
        self._open = ExitStack()
        self._listener: Listener | None = None
        self._uploading = threading.Lock()
        self._next = time.monotonic()

    def __enter__(self) -> Announcement:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    @property
    def port(self) -> int | None:
        """The port that is listened on; None before the first upload."""
        return self._listener.port if self._listener else None

    def make(self) -> bool:
        """Upload the facts if it is time to; return whether the machine can be announced at all.

        It cannot before its card has an address: Foreman takes no host without one.
        """
        if time.monotonic() < self._next or self._uploading.locked():
            return True
        if not has_address(self._myself.machine(), self._myself.mac):
            return False
        if self._listener is None:
            self._listener = self._open.enter_context(
                Listener(
                    self._myself.facts,
                    lambda body: kexec_order(body, self._server),
                    self.orders.put,
                    self._port,
                )
            )
            log.info("foreman: orders are taken on port %d", self._listener.port)
        self._uploading.acquire()
        threading.Thread(target=self._upload, name="foreman-facts", daemon=True).start()
        return True

    def _upload(self) -> None:
        problem = "the facts could not be put together"
        try:
            body = json.dumps({"facts": self._myself.facts()}).encode()
            problem = _refusal(self._talk.post(self._server.facts_url, body, JSON))
        except SilenceError as error:
            problem = str(error)
        except Exception:
            log.exception("foreman: the facts were not uploaded")
        finally:
            self._next = time.monotonic() + (self._retry if problem else self._again)
            self._uploading.release()
        if problem:
            log.warning("foreman: %s: the facts were not taken: %s", self._server.base, problem)
        else:
            log.info("foreman: %s: the facts were taken", self._server.base)
        self.orders.put(None)


def _refusal(answer: Answer) -> str:
    """Return why Foreman did not take the facts, nothing if it did (201; a proxy says 200)."""
    if answer.status in (200, 201):
        return ""
    return f"{answer.status}: {_message(answer.text)}"


def _message(text: str) -> str:
    """Return what an error document of the API says, or the text itself."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    found: object = document
    if isinstance(document, dict):
        error = document.get("error")
        found = document.get("message") or (
            error.get("full_messages") or error.get("message") if isinstance(error, dict) else error
        )
    words = ", ".join(map(str, found)) if isinstance(found, list) else str(found or text)
    return plain(" ".join(words.split()), limit=300)


__all__ = ["PORT", "Announcement", "Myself"]
