"""Which disks the installation takes, and what it may destroy on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, StrictBool

from agent.plan.part import Fault, OneOrMany, Part, listed, one_of
from agent.plan.size import Condition
from agent.plan.text import AbsolutePath, Word

Transport = Literal["nvme", "sata", "sas", "scsi", "virtio", "usb", "mmc", "fc", "iscsi", "nvmeof"]
Erase = Literal["refuse-foreign", "owned", "any"]
SecureEraseBy = Literal["auto", "nvme-sanitize", "nvme-format", "ata", "discard"]
_WAYS = ("auto", "nvme-sanitize", "nvme-format", "ata", "discard")

T = TypeVar("T")
# One value, or a list of at least one.
OneOrMore = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(listed), OneOrMany()]
TRANSPORTS = ("nvme", "sata", "sas", "scsi", "virtio", "usb", "mmc", "fc", "iscsi", "nvmeof")


class Where(Part):
    """What a disk must be.

    A disk must meet every key that is given, with any one of its values; of `size` all conditions
    must hold. Fibre channel, iSCSI, NVMe over a network, USB and memory cards match only where
    `transport`, `serial`, `wwn` or a `path` without wild cards names them; what the live system was
    booted from, and what holds the plan, only by `serial`, `wwn` or such a `path`. Read-only disks
    never match.
    """

    later: ClassVar[frozenset[str]] = frozenset({"controller"})
    example: ClassVar[str] = """\
transport: [nvme, sata]
size: [">= 400 GB", "< 2 TB"]
rotational: false
"""

    transport: OneOrMore[Annotated[Transport, one_of(TRANSPORTS)]] = Field(
        (), description="how the disk is attached"
    )
    size: OneOrMore[Condition] = Field(
        (), description="comparisons with its size, by `<`, `<=`, `==`, `>=` or `>`"
    )
    rotational: StrictBool | None = Field(
        None, description="true for spinning disks only, false for solid state only"
    )
    serial: OneOrMore[Word] = Field((), description="serial numbers")
    wwn: OneOrMore[Word] = Field((), description="World Wide Names, as udev shows them")
    model: OneOrMore[Word] = Field((), description="models, exactly as the disk tells them")
    path: OneOrMore[AbsolutePath] = Field(
        (),
        description="device paths, also with `*` and `?`; names such as `/dev/sda` may change from "
        "boot to boot, those below `/dev/disk/by-path` stay",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._paths(),)

    def _paths(self) -> Iterator[Fault]:
        for number, path in enumerate(self.path):
            if not path.startswith("/dev/"):
                yield Fault(("path", number), f'"{path}" is not below /dev')


class Disks(Part):
    """The disks that are taken.

    Exactly `count` disks of the machine must match `where`. More or fewer are a problem that lists
    every disk with the reason why it does or does not match; none is ever picked by chance. Two
    paths to one disk (the same WWN) count as one, and the first path is used. Who a disk is, by
    serial, WWN and size, is looked at once more on the open device just before the first write.
    """

    example: ClassVar[str] = """\
count: 2
where: {transport: nvme, size: ">= 400 GB"}
erase: refuse-foreign
"""

    count: Annotated[Literal[1, 2, 3], one_of((1, 2, 3), later=(4,))] = Field(
        description="1 for a single disk, 2 or 3 for a mirror of as many"
    )
    where: Where = Field(
        Where(), description="what the disks must be; without it any disk of the machine may match"
    )
    on_different_controllers: StrictBool = Field(
        False, description="true refuses a mirror whose disks hang on the same controller"
    )
    erase: Annotated[Erase, one_of(("refuse-foreign", "owned", "any"))] = Field(
        "refuse-foreign",
        description="what may be destroyed: `refuse-foreign` takes disks that are blank or carry "
        "an installation of ours, `owned` only those with an installation of ours on this machine, "
        "`any` whatever matches",
    )
    secure_erase: Annotated[SecureEraseBy, one_of(_WAYS)] | None = Field(
        None,
        description="have each disk forget all that it ever held, before it is used: by NVMe "
        "sanitize or format, by ATA security erase, by discarding every block; `auto` takes for "
        "each disk the first of these that it can. A disk that cannot is a problem. May take hours "
        "on spinning disks; without it the disks are erased as far as any scanner looks",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._enough_are_named(), self._controllers()

    def _controllers(self) -> Iterator[Fault]:
        if self.on_different_controllers and self.count == 1:
            message = "needs more than one disk, count asks for 1"
            yield Fault(("on_different_controllers",), message)

    def _enough_are_named(self) -> Iterator[Fault]:
        yield from enough_are_named(self.where, self.count)


def enough_are_named(where: Where, count: int) -> Iterator[Fault]:
    """Yield that fewer disks are named than are asked for."""
    for key in ("serial", "wwn", "path"):
        named = set(getattr(where, key))
        pattern = key == "path" and any(set(name) & set("*?[") for name in named)
        if named and not pattern and len(named) < count:
            yield Fault(("where", key), f"names {len(named)} disk, count asks for {count}")
