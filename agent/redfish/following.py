"""Hear from the deploy server how an installation goes.

`GET /v1/events?plan=ID` gives everything a plan's machines ever said (docs/serve.md); what was
there before the machine was started is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import requests

from agent.errors import MachineError, PlanError, Problem
from agent.plan.catalog import Catalog
from agent.plan.model import Finish
from agent.plan.parse import parse
from agent.report.event import PLAN_ID, Event, EventError

ASK_SECONDS = 15.0


class UnheardError(Exception):
    """The deploy server does not answer now; asking again is right."""


@dataclass
class Server:
    """A deploy server, and one plan on it."""

    url: str
    plan: str
    ca: Path | None = None
    catalog: Catalog = field(default_factory=Catalog)
    _read: int = field(default=0, init=False)
    _runs: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        if not PLAN_ID.fullmatch(self.plan):
            raise PlanError([Problem("--plan", f"is not the id of a plan: {self.plan!r:.80}")])
        self.url = self.url.rstrip("/")

    def finish(self) -> Finish:
        """Return what the plan says the machine shall do at its end.

        Raises `MachineError` when the server does not have the plan: then the machine would not
        get it either.
        """
        try:
            answer = self._get(f"/v1/plans/{self.plan}")
        except UnheardError as error:
            raise MachineError([Problem("--server", str(error))]) from None
        if answer.status_code != 200:
            why = f"{self.url}: has no plan {self.plan} (status {answer.status_code})"
            raise MachineError([Problem("--plan", why)])
        return parse(answer.content, self.catalog).finish

    def start_listening(self) -> None:
        """Take what was said up to now for the past."""
        try:
            self._runs = {event.run for event in self._events()}
        except UnheardError as error:
            raise MachineError([Problem("--server", str(error))]) from None

    def news(self) -> list[Event]:
        """Return the events since the last call, of runs that began after `start_listening`."""
        return [event for event in self._events() if event.run not in self._runs]

    def _events(self) -> list[Event]:
        headers = {"Range": f"bytes={self._read}-"} if self._read else {}
        answer = self._get(f"/v1/events?plan={self.plan}", headers)
        if answer.status_code in (404, 416):
            return []  # no event yet, or none that is new
        if answer.status_code not in (200, 206):
            raise UnheardError(f"{self.url}: answers {answer.status_code}")
        content = answer.content
        if answer.status_code == 200:
            content = content[self._read :]
        whole = content[: content.rfind(b"\n") + 1]  # half a line is for the next time
        self._read += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                found.append(Event.from_json(line))
            except EventError:
                continue
        return found

    def _get(self, path: str, headers: dict[str, str] | None = None) -> requests.Response:
        session = requests.Session()
        session.trust_env = False
        try:
            with session:
                return session.get(
                    f"{self.url}{path}",
                    headers=headers,
                    timeout=ASK_SECONDS,
                    verify=str(self.ca) if self.ca else True,
                )
        except requests.RequestException as error:
            raise UnheardError(f"{self.url}: {_why(error)}") from None


def _why(error: BaseException) -> str:
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and len(causes) < 20:
        causes.append(cause)
    found = [each for each in causes if isinstance(each, OSError) and each.strerror]
    return (found[-1].strerror or "").lower() if found else " ".join(str(causes[-1]).split())[:300]
