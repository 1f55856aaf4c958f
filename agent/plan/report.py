"""Where events, the install report and the recovery key's envelope go."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from agent.plan.part import Part, one_of
from agent.plan.text import Token, Url


class HttpReport(Part):
    """Events are posted as JSON lines; the server must acknowledge the envelope."""

    later: ClassVar[frozenset[str]] = frozenset({"ca", "built", "failed", "headers"})

    type: Annotated[Literal["http"], one_of(("http",), later=("foreman", "webhook", "syslog"))] = (
        Field(description="http")
    )
    url: Url = Field(description="where events are posted to")
    token: Token | None = Field(
        None, description="bearer token; never shown, logged or written to the installed system"
    )
