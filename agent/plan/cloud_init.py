"""What cloud-init finds on the installed system: nothing, or a seed that came with the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    StrictStr,
)
from pydantic_core import CoreSchema

from agent.plan.part import Fault, Kind, Part

DISABLED = "disabled"
LARGEST = 256 << 10
"""Characters of user data; a plan has at most 1 MiB in all."""
_CLOUD_CONFIG = "#cloud-config"
# How cloud-init tells what user data is (its documentation, "user data formats").
_BEGINNINGS = (
    *(_CLOUD_CONFIG, "#!", "#include", "#cloud-boothook", "#part-handler"),
    *("## template: jinja", "Content-Type: multipart", "MIME-Version:"),
)


class CloudInit(Part):
    """A seed for cloud-init's NoCloud data source, instead of switching it off.

    An image made for clouds has cloud-init in it, which on a bare machine looks for a cloud, makes
    new SSH host keys and sets up a network of its own. So it is switched off
    (`/etc/cloud/cloud-init.disabled`), unless a seed is given here. With a seed it runs with these
    files alone: it keeps the SSH host keys that the report names, and leaves the network alone
    unless `network_config` is given, which then takes the place of `configure.network` in the
    installed system.
    """

    example: ClassVar[str] = """\
user_data: |
  #cloud-config
  package_update: false
  runcmd: [[touch, /var/lib/first-boot-done]]
"""

    user_data: Annotated[StrictStr, Kind("text")] = Field(
        description="what cloud-init does: `#cloud-config`, a script, or another of its formats",
        repr=False,
    )
    meta_data: Annotated[StrictStr, Kind("text")] | None = Field(
        None, description="YAML with an `instance-id`; without it id and host name are the plan's"
    )
    network_config: Annotated[StrictStr, Kind("text")] | None = Field(
        None, description="YAML, version 1 or 2 of cloud-init's network configuration"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._user_data(), self._meta_data(), self._network_config()

    def _user_data(self) -> Iterator[Fault]:
        first = self.user_data.partition("\n")[0].rstrip()
        if len(self.user_data) > LARGEST:
            message = f"has {len(self.user_data)} characters, there may be {LARGEST}"
            yield Fault(("user_data",), message)
        elif not first.startswith(_BEGINNINGS):
            yield Fault(
                ("user_data",), "does not begin as cloud-init wants it: #cloud-config or #!"
            )
        elif first == _CLOUD_CONFIG and not isinstance(_read(self.user_data), dict):
            yield Fault(("user_data",), "is no YAML mapping below #cloud-config")

    def _meta_data(self) -> Iterator[Fault]:
        if self.meta_data is None:
            return
        found = _read(self.meta_data)
        if not isinstance(found, dict) or not found.get("instance-id"):
            yield Fault(("meta_data",), "has no instance-id: without one every boot is the first")

    def _network_config(self) -> Iterator[Fault]:
        if self.network_config is None:
            return
        found = _read(self.network_config)
        found = found.get("network", found) if isinstance(found, dict) else None
        if not isinstance(found, dict) or found.get("version") not in (1, 2):
            yield Fault(("network_config",), "has no version: write version: 2, as netplan has it")


def _read(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


class _OrDisabled:
    """Says in the JSON Schema that the word may stand for no seed."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"const": DISABLED}, handler(core_schema)]}


def _seed_or_none(value: object) -> object:
    return None if value == DISABLED else value


Seed = Annotated[
    CloudInit | None,
    BeforeValidator(_seed_or_none),
    Kind("`disabled`, or a mapping"),
    _OrDisabled(),
]
