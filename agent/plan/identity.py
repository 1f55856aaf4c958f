"""Which machine a plan is for: it is refused everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar
from uuid import UUID

from pydantic import Field

from agent.plan.part import Fault, Part
from agent.plan.text import Mac, Uuid, Word

# What firmware says when the maker wrote nothing; many boards share these.
PLACEHOLDER_SERIALS = frozenset(
    {
        "0",
        "0123456789",
        "123456789",
        "default string",
        "empty",
        "n/a",
        "none",
        "not applicable",
        "not specified",
        "system serial number",
        "to be filled by o.e.m.",
        "unknown",
    }
)
PLACEHOLDER_UUIDS = frozenset(
    {
        UUID(int=0),
        UUID(int=(1 << 128) - 1),
        UUID("03000200-0400-0500-0006-000700080009"),
        UUID("00020003-0004-0005-0006-000700080009"),
    }
)


class Identity(Part):
    """The machine the plan is for, by at least one of these keys.

    All that are given must match, otherwise nothing is touched. Serial numbers and UUIDs that many
    boards share, such as `To be filled by O.E.M.`, are refused.
    """

    example: ClassVar[str] = """\
mac: 52:54:00:12:34:56
serial: "CZ1234"
"""

    mac: Mac | None = Field(None, description="MAC address of one of its wired interfaces")
    serial: Word | None = Field(None, description="serial number of the system, as DMI has it")
    uuid: Uuid | None = Field(None, description="UUID of the system, as DMI has it")

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._names_one(), self._serial(), self._uuid()

    def _names_one(self) -> Iterator[Fault]:
        if self.mac is None and self.serial is None and self.uuid is None:
            yield Fault((), "names no machine: give mac, serial or uuid, or several of them")

    def _serial(self) -> Iterator[Fault]:
        if self.serial is not None and self.serial.lower() in PLACEHOLDER_SERIALS:
            message = f'"{self.serial}" is a placeholder that many boards share: use the mac'
            yield Fault(("serial",), message)

    def _uuid(self) -> Iterator[Fault]:
        if self.uuid in PLACEHOLDER_UUIDS:
            message = f"{self.uuid} is a placeholder that many boards share: use the mac"
            yield Fault(("uuid",), message)
