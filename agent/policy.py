"""What a live image allows: `/etc/bedplate/policy.yaml`, baked in by who built it.

The plan says what is wanted, the policy what may be asked for, so it never comes from the network.
Without the file everything is as the fields' defaults say.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StrictBool
from pydantic import ValidationError as InvalidError

from agent.errors import MachineError, Problem


def _server(text: str) -> str:
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        right = bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets, or of a port that is none
        right = False
    else:
        extra = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        right = right and not extra and parts.scheme in {"", "http", "https"}
    if not right:
        raise ValueError(
            f"{text!r} is no server: write a host name (*.example.com), HOST:PORT or https://HOST"
        )
    return text.rstrip("/")


def _version(value: object) -> object:
    return str(value) if isinstance(value, float) else value


class Policy(BaseModel):
    """The rules. `allowed_servers` None allows any; an entry without port or scheme allows all."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    require_signed_plan: StrictBool = False
    require_fresh_plan: StrictBool = False
    allowed_servers: tuple[Annotated[str, AfterValidator(_server)], ...] | None = None
    minimum_tls: Annotated[Literal["1.2", "1.3"], BeforeValidator(_version)] = "1.2"

    def admits(self, url: str) -> bool:
        """Tell whether a plan may come from `url`."""
        if self.allowed_servers is None:
            return True
        return any(_matches(url, entry) for entry in self.allowed_servers)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: the second would quietly take the first one back."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in keys[:number]:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} is there twice", problem_mark=key.start_mark
                )
        return dict(super().construct_mapping(node, deep))


def read_policy(text: bytes, where: str) -> Policy:
    """Return the policy in a file named `where`; raise `MachineError` with everything wrong in it.

    A policy that cannot be read allows nothing: the machine stays as it is.
    """
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 – a SafeLoader
    except yaml.YAMLError as error:
        message = f"is not YAML: {' '.join(str(error).split())}"
        raise MachineError([Problem(where, message)]) from None
    if content is None:
        return Policy()
    try:
        return Policy.model_validate(content)
    except InvalidError as error:
        raise MachineError(list(_problems(error, where))) from None


_KINDS = {
    "literal_error": "must be 1.2 or 1.3",
    "bool_type": "must be true or false",
    "model_type": "must be a mapping of keys such as require_signed_plan",
    "string_type": "must be text",
    "tuple_type": "must be a list of servers",
}


def _problems(error: InvalidError, where: str) -> Iterator[Problem]:
    for fault in error.errors(include_url=False, include_input=False):
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"is not known; known are {', '.join(Policy.model_fields)}"
        message = _KINDS.get(fault["type"], message)
        yield Problem(f"{where}: {place}" if place else where, message)


def _matches(url: str, entry: str) -> bool:
    asked = urlsplit(url)
    allowed = urlsplit(entry if "://" in entry else f"//{entry}")
    if allowed.scheme and allowed.scheme != asked.scheme:
        return False
    port = allowed.port
    if port is not None and port != (asked.port or (443 if asked.scheme == "https" else 80)):
        return False
    return fnmatchcase(asked.hostname or "", allowed.hostname or "")
