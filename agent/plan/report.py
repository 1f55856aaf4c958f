"""Where events, the install report and the recovery key's envelope go."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from agent.plan.part import Part, one_of
from agent.plan.text import HostName, SecretUrl, Token, Url, Word

TYPES = ("http", "foreman")


class HttpReport(Part):
    """A server that events are posted to, one JSON object a line.

    A server that is down never stops an installation: events are kept and sent when it answers.
    With encryption at least one server of this type must acknowledge the recovery key's envelope.
    """

    example: ClassVar[str] = """\
type: http
url: https://deploy.example.com/v1/events
token: Zm9vYmFyMTIzNDU2Nzg5MA
"""

    type: Annotated[Literal["http"], one_of(TYPES)] = Field(description="how it is spoken to")
    url: Url = Field(description="where events are posted to")
    token: Token | None = Field(
        None,
        description="sent as `Authorization: Bearer`; never shown or logged. Where the TPM is "
        "sealed on first boot it lies on the encrypted root, for root only, until that is reported",
    )


class ConfigReports(Part):
    """Foreman's config reports: one at the end of the run, with an entry for each step.

    Only where it is asked for: half an hour later Foreman shows the host as out of sync, unless
    configuration management goes on reporting.
    """

    example: ClassVar[str] = """\
url: https://foreman.example.com/api/v2/config_reports
user: bedplate
token: Zm9vYmFyMTIzNDU2Nzg5MA
"""

    url: Url = Field(description="where reports are posted to")
    user: Word = Field(description="a user that may do nothing but upload config reports")
    token: Token = Field(description="its personal access token; never shown or logged")
    host: HostName | None = Field(
        None,
        description="the host's name in Foreman, exactly; an unknown one makes a new host there. "
        "Without it the plan's `hostname`",
    )


class ForemanReport(Part):
    """Foreman or Satellite: told once how it ended, by which it ends the host's build mode.

    Both addresses hold the host's token and are never shown or logged. `failed` gets the reason,
    the steps and the end of the log, which Foreman shows at the host. It keeps no envelopes: with
    encryption there must be a server of type `http` too.
    """

    example: ClassVar[str] = """\
type: foreman
built: https://foreman.example.com/unattended/built?token=5f7e1a52
failed: https://foreman.example.com/unattended/failed?token=5f7e1a52
"""

    type: Annotated[Literal["foreman"], one_of(TYPES)] = Field(description="how it is spoken to")
    built: SecretUrl = Field(description="what `foreman_url('built')` gives")
    failed: SecretUrl = Field(description="what `foreman_url('failed')` gives")
    config_reports: ConfigReports | None = Field(
        None, description="post a config report as well; needs a login"
    )


def _by_type(value: object, info: ValidationInfo) -> Any:
    """Validate a mapping as the kind of report that its `type` names."""
    if isinstance(value, HttpReport | ForemanReport):
        return value
    foreman = isinstance(value, dict) and value.get("type") == "foreman"
    kind = ForemanReport if foreman else HttpReport
    return kind.model_validate(value, context=info.context)


Report = Annotated[HttpReport | ForemanReport, BeforeValidator(_by_type)]
