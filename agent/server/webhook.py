"""Events as CloudEvents (1.0, structured JSON) to a webhook such as Event-Driven Ansible's.

Progress is left out. Events wait in a bounded queue while the receiver is down; when it is full the
oldest goes. Delivery is at least once while this server lives, and in order.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import requests
import tenacity

from agent import __version__
from agent.errors import MachineError, Problem
from agent.report.event import VERSION, Event
from agent.report.text import plain
from agent.secret import Secret
from agent.server.batches import Stored

log = logging.getLogger(__name__)

QUEUE_EVENTS = 10_000
SECONDS = 10.0
"""For one attempt."""
LONGEST_PAUSE = 60.0
SIGNATURE = "Bedplate-Signature"
_FOREVER_NO = frozenset({400, 401, 403, 404, 405, 410, 413, 415, 422})


class _TryAgainError(Exception):
    pass


class Webhook:
    """Observes stored events and posts them from a thread of its own.

    With `secret` each request has the header `Bedplate-Signature: sha256=<hex>`, an HMAC over the
    body. `dropped` is called for each event that is given up. Raises `MachineError` for a URL that
    is not http or https.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: Secret | None = None,
        limit: int = QUEUE_EVENTS,
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MachineError([Problem("webhook", "must be an http or https URL")])
        self._url = url
        self._name = plain(f"{parts.scheme}://{parts.hostname}{parts.path}", limit=200)
        self._secret = secret
        self._limit = limit
        self._dropped = dropped
        self._waiting: deque[Event] = deque()
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    def __call__(self, stored: Stored) -> None:
        with self._changed:
            for event in stored.fresh:
                if event.is_progress:
                    continue
                self._waiting.append(event)
                if len(self._waiting) > self._limit:
                    self._waiting.popleft()
                    self._dropped()
            self._changed.notify()

    def close(self, timeout: float = 2.0) -> None:
        """Post what waits for up to `timeout` seconds, then end."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout)
        self._ending.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(max(0.0, deadline - time.monotonic()) + 0.1)

    def _work(self) -> None:
        retrying = tenacity.Retrying(
            wait=tenacity.wait_exponential(0.25, max=LONGEST_PAUSE) + tenacity.wait_random(0, 0.5),
            retry=tenacity.retry_if_exception_type(_TryAgainError),
            stop=lambda _: self._ending.is_set(),
            sleep=self._nap,
            before_sleep=self._tell,
            reraise=True,
        )
        with requests.Session() as session:
            session.trust_env = False
            while (event := self._next()) is not None:
                try:
                    retrying(self._post, session, event)
                except _TryAgainError:
                    return  # only when ending
                with self._changed:
                    # It stays in the queue until now, so that `close` waits for it; if the queue
                    # was full it may have been dropped from there meanwhile.
                    if self._waiting and self._waiting[0] is event:
                        self._waiting.popleft()
                    self._changed.notify_all()

    def _nap(self, seconds: float) -> None:
        self._ending.wait(seconds)

    def _next(self) -> Event | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending.is_set())
            return self._waiting[0] if self._waiting and not self._ending.is_set() else None

    def _post(self, session: requests.Session, event: Event) -> None:
        body = json.dumps(cloud_event(event), ensure_ascii=True).encode()
        headers = {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "User-Agent": f"bedplate/{__version__}",
        }
        if self._secret is not None:
            made = hmac.new(self._secret.value, body, hashlib.sha256).hexdigest()
            headers[SIGNATURE] = f"sha256={made}"
        try:
            with session.post(
                self._url,
                body,
                headers=headers,
                timeout=SECONDS,
                allow_redirects=False,
                stream=True,
            ) as answer:
                status = answer.status_code
        except requests.RequestException as error:
            raise _TryAgainError(type(error).__name__) from None
        if status in _FOREVER_NO or 300 <= status < 400:
            log.warning("webhook: %s answers %d; the event is dropped", self._name, status)
            self._dropped()
        elif not 200 <= status < 300:
            raise _TryAgainError(f"answers {status}")

    def _tell(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            error = state.outcome.exception()
            log.warning("webhook: %s: %s; events wait for it", self._name, error)


def cloud_event(event: Event) -> dict[str, object]:
    """Return an event as a CloudEvent; its id is the same whenever it is sent again."""
    known = json.loads(event.line)
    moment = datetime.fromtimestamp(min(event.time, 253402300799), UTC)
    return {
        "specversion": "1.0",
        "id": f"{quote(event.machine)}/{quote(event.run)}/{event.seq}",
        "source": f"/bedplate/plans/{event.plan}",
        "type": f"io.bedplate.step.{event.state}"
        if not event.is_last
        else f"io.bedplate.install.{event.state}",
        "subject": event.step,
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "dataschema": f"urn:bedplate:event:{VERSION}",
        "data": known,
    }
