"""Which disks the installation takes, and what it may destroy on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, StrictBool

from agent.plan.part import Fault, Part, listed, one_of
from agent.plan.size import Condition
from agent.plan.text import AbsolutePath, Word

Transport = Literal["nvme", "sata", "sas", "scsi", "virtio", "usb", "mmc"]
Erase = Literal["refuse-foreign", "owned", "any"]

T = TypeVar("T")
# One value, or a list of at least one.
OneOrMore = Annotated[tuple[T, ...], BeforeValidator(listed), Field(min_length=1)]
TRANSPORTS = ("nvme", "sata", "sas", "scsi", "virtio", "usb", "mmc")


class Where(Part):
    """What a disk must be. Of the values of one key any may match; every key must.

    `size` is the exception: all its conditions must hold.
    """

    later: ClassVar[frozenset[str]] = frozenset({"controller", "vendor", "firmware", "sector_size"})

    transport: OneOrMore[
        Annotated[Transport, one_of(TRANSPORTS, later=("fc", "iscsi", "nvme-of", "fcoe"))]
    ] = Field((), description="how the disk is attached")
    size: OneOrMore[Condition] = Field(
        (), description="comparisons with its size, with <, <=, ==, >= or >; all must hold"
    )
    rotational: StrictBool | None = Field(
        None, description="true for spinning disks only, false for solid state only"
    )
    serial: OneOrMore[Word] = Field((), description="serial numbers")
    wwn: OneOrMore[Word] = Field((), description="World Wide Names, eui. and nvme. too")
    model: OneOrMore[Word] = Field((), description="models, exactly as the disk says it")
    path: OneOrMore[AbsolutePath] = Field(
        (), description="device paths; links below /dev/disk/by-path are the ones that last"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._paths(),)

    def _paths(self) -> Iterator[Fault]:
        for number, path in enumerate(self.path):
            if not path.startswith("/dev/"):
                yield Fault(("path", number), f'"{path}" is not below /dev')


class Disks(Part):
    """The disks that are taken: exactly `count` disks of the machine must match `where`."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"secure_erase", "different_controllers", "data", "spare"}
    )

    count: Annotated[Literal[1, 2], one_of((1, 2), later=(3, 4))] = Field(
        description="1 for a single disk, 2 for a mirror"
    )
    where: Where = Field(
        Where(), description="what the disks must be; without it any disk of the machine may match"
    )
    erase: Annotated[Erase, one_of(("refuse-foreign", "owned", "any"))] = Field(
        "refuse-foreign",
        description="what may be destroyed: refuse-foreign takes disks that are blank or carry an "
        "installation of ours, owned only those with an installation of ours on this machine, "
        "any takes whatever matches",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._enough_are_named(),)

    def _enough_are_named(self) -> Iterator[Fault]:
        for key in ("serial", "wwn", "path"):
            named = getattr(self.where, key)
            if named and len(set(named)) < self.count:
                yield Fault(
                    ("where", key), f"names {len(set(named))} disk, count asks for {self.count}"
                )
