"""The server's stream as the fleet it describes: read in a thread, connected again by itself.

Server-sent events as the HTML standard has them (§9.2), of which the server uses `id`, `event` and
one line of `data`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import requests

from agent.errors import MachineError, Problem
from agent.report.tls import hung_up
from agent.secret import Secret
from agent.watch.wish import Machine

CONNECTING = "connecting"
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 35.0
"""Three beats of the server: who has not said anything by then is gone."""
LONGEST_PAUSE = 15.0
EVENT_LIMIT = 64 * 1024 * 1024
BUSY = frozenset({408, 425, 429})
"""Answers below 500 after which one may ask again."""
STATUS_WORDS = {401: "wants an operator's name and password (--user)", 403: "is closed to us"}


@dataclass(frozen=True)
class Message:
    """One server-sent event."""

    event: str
    data: str
    id: str = ""


@dataclass(frozen=True)
class Seen:
    """The fleet at one moment. `now` is the server's clock less ours, in seconds."""

    machines: Mapping[str, Machine] = field(default_factory=dict)
    skew: float = 0.0
    lost: str = ""
    """Why there is no connection; empty while there is one."""
    changed: frozenset[str] = frozenset()
    """Which machines the last message was about."""


class Fleet(Protocol):
    """Where a fleet is read: `Site`, or a stand-in."""

    def messages(self, last: str) -> Iterator[Message]: ...


class Site:
    """A server by its URL. Raises `MachineError` for what asking again would not mend."""

    def __init__(
        self, url: str, *, login: tuple[str, Secret] | None = None, authorities: str = ""
    ) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = (login[0], login[1].text) if login else None
        if authorities:
            self._session.verify = authorities

    def get(self, path: str) -> Any:
        """Return a JSON document of the server."""
        try:
            answer = self._session.get(
                f"{self.url}/{path}", timeout=(CONNECT_SECONDS, SILENCE_SECONDS)
            )
            self._check(answer)
        except (requests.RequestException, ValueError) as error:
            raise MachineError([Problem(self.url, _reason(error))]) from error
        try:
            return answer.json()
        except ValueError:
            raise MachineError([Problem(self.url, "is no server of bedplate")]) from None

    def messages(self, last: str) -> Iterator[Message]:
        """Yield the stream's messages until it breaks; `last` is the last id that was seen."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        with self._session.get(
            f"{self.url}/v1/fleet/stream",
            headers=headers,
            stream=True,
            timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
        ) as answer:
            self._check(answer)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise MachineError([Problem(self.url, "has no live fleet: is it bedplate serve?")])
            yield from messages(answer.iter_content(chunk_size=None))

    def _check(self, answer: requests.Response) -> None:
        if answer.status_code >= 500 or answer.status_code in BUSY:
            raise requests.HTTPError(f"answers {answer.status_code}")
        if answer.status_code != 200:
            known = STATUS_WORDS.get(answer.status_code)
            text = known or f"answers {answer.status_code}: {answer.text[:200].strip()}"
            raise MachineError([Problem(self.url, text)])


def messages(pieces: Iterable[bytes]) -> Iterator[Message]:
    """Yield the events of a stream that arrives in any pieces; half an event at its end is none."""
    held = b""
    for piece in pieces:
        held += piece.replace(b"\r\n", b"\n")
        if len(held) > EVENT_LIMIT:
            raise requests.RequestException(f"an event of more than {EVENT_LIMIT} bytes")
        *whole, held = held.split(b"\n\n")
        for block in whole:
            yield _message(block.decode("utf-8", "replace"))


def _message(block: str) -> Message:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
    return Message(fields.get("event", "message"), fields.get("data", ""), fields.get("id", ""))


class Feed:
    """Follows a site in a thread; `seen` is always the latest. Ends with the program."""

    def __init__(
        self, site: Fleet, *, pause: float = 1.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._site = site
        self._first_pause = pause
        self._clock = clock
        self._news = threading.Condition()
        self._seen = Seen(lost=CONNECTING)
        self._failure: MachineError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="fleet feed", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def wait(self, before: Seen | None, timeout: float) -> Seen:
        """Return what is seen now, once it is something else than `before` or time is up.

        Raises `MachineError` when the server says no in a way that will not change.
        """
        with self._news:
            self._news.wait_for(lambda: self._failure or self._seen is not before, timeout)
            if self._failure:
                raise self._failure
            return self._seen

    def _follow(self) -> None:
        last, pause, machines = "", self._first_pause, dict[str, Machine]()
        while not self._over.is_set():
            reason = "the stream ended"
            try:
                for message in self._site.messages(last):
                    if self._over.is_set():
                        return
                    if not message.data:
                        continue
                    last, pause = message.id or last, self._first_pause
                    machines = self._take(message, machines)
            except MachineError as error:
                with self._news:
                    self._failure = error
                    self._news.notify_all()
                return
            except (requests.RequestException, OSError) as error:
                reason = _reason(error)
            except (ValueError, LookupError, TypeError, AttributeError):
                reason, last = "it sends what is no fleet", ""
            with self._news:
                self._seen = Seen(machines, self._seen.skew, reason)
                self._news.notify_all()
            self._over.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _take(self, message: Message, machines: dict[str, Machine]) -> dict[str, Machine]:
        told = json.loads(message.data)
        changed: list[Machine] = told.get("machines", [])
        if message.event == "fleet":
            machines = {each["id"]: each for each in changed}
        elif message.event == "change":
            machines = dict(machines)
            for plan in told.get("gone", []):
                machines.pop(plan, None)
            for each in changed:
                machines[each["id"]] = {**machines.get(each["id"], {}), **each}
        skew = told["now"] - self._clock() if "now" in told else self._seen.skew
        with self._news:
            self._seen = Seen(machines, skew, "", frozenset(each["id"] for each in changed))
            self._news.notify_all()
        return machines


def _reason(error: Exception) -> str:
    """Return why a request failed, without the URL and the objects that requests puts around."""
    match error:
        case requests.exceptions.SSLError() if hung_up(error):
            return "hung up"
        case requests.exceptions.SSLError():
            return "its certificate is not trusted (--ca)"
        case requests.exceptions.ReadTimeout():
            return f"has said nothing for {SILENCE_SECONDS:g} s"
        case requests.exceptions.ConnectTimeout():
            return f"does not answer within {CONNECT_SECONDS:g} s"
        case requests.exceptions.HTTPError():
            return str(error)
        case requests.exceptions.ConnectionError():
            return "no connection"
        case requests.exceptions.InvalidURL() | requests.exceptions.MissingSchema():
            return "is not a URL such as http://deploy.example.com:8080"
        case _:
            return f"{type(error).__name__}: {error}"[:200]
