"""Where events, the install report and the recovery key's envelope go."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from agent.plan.part import Part, one_of
from agent.plan.text import Token, Url

LATER_TYPES = ("foreman",)


class HttpReport(Part):
    """A server that events are posted to, one JSON object a line.

    A server that is down never stops an installation: events are kept and sent when it answers.
    With encryption at least one server must acknowledge the recovery key's envelope.
    """

    # The keys of the type foreman: one problem is enough for a plan that has it.
    later: ClassVar[frozenset[str]] = frozenset({"built", "failed"})
    example: ClassVar[str] = """\
type: http
url: https://deploy.example.com/v1/events
token: Zm9vYmFyMTIzNDU2Nzg5MA
"""

    type: Annotated[Literal["http"], one_of(("http",), later=LATER_TYPES)] = Field(
        description="how it is spoken to"
    )
    url: Url = Field(description="where events are posted to")
    token: Token | None = Field(
        None,
        description="sent as `Authorization: Bearer`; never shown or logged. Where the TPM is "
        "sealed on first boot it lies on the encrypted root, for root only, until that is reported",
    )
