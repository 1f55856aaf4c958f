"""The plan: one install order for one machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from agent.plan.configure import Configure
from agent.plan.disks import Disks
from agent.plan.encryption import Encryption
from agent.plan.identity import Identity
from agent.plan.image import Image
from agent.plan.overlay import Overlay
from agent.plan.part import Fault, Part, one_of, shown
from agent.plan.report import HttpReport, Report
from agent.plan.storage import BRINGS_ITS_OWN, WHOLE_DISK, Storage
from agent.plan.text import HostName, Time, Uuid

Finish = Literal["reboot", "poweroff", "stay"]


def known_version(value: object) -> object:
    """Return the version of a plan's form that this program reads."""
    if type(value) is int and value == 1:
        return value
    raise ValueError(f"{shown(value)} is not a version that is known: this program reads 1")


class Plan(Part):
    """One install order for one machine."""

    version: Annotated[Literal[1], BeforeValidator(known_version)] = Field(
        description="version of the plan's form"
    )
    id: Uuid = Field(
        description="names the order; the same id is never carried out twice on a machine"
    )
    expires: Time | None = Field(None, description="after this the plan is refused")
    machine: Identity = Field(description="the machine it is for; refused everywhere else")
    hostname: HostName = Field(description="host name of the installed system")
    disks: Disks = Field(description="the disks that are taken")
    storage: Storage = Field(Storage(), description="what lies on them")
    encryption: Encryption | None = Field(
        None, description="how they are encrypted; without it they are not"
    )
    image: Image = Field(description="the image that is installed")
    overlays: tuple[Overlay, ...] = Field(
        (), description="small images laid over it, in this order", max_length=16
    )
    configure: Configure = Field(
        Configure(), description="what the image does not know about this host"
    )
    report: tuple[Report, ...] = Field((), description="where events and the report go")
    finish: Annotated[Finish, one_of(("reboot", "poweroff", "stay"), later=("kexec",))] = Field(
        "reboot", description="what happens when everything is proven"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (
            self._whole_disk_stands_alone(),
            self._escrow_is_acknowledged(),
            self._swap_is_encrypted(),
            self._fips_throughout(),
        )

    def _whole_disk_stands_alone(self) -> Iterator[Fault]:
        """Yield what is said of a whole-disk image that nobody would carry out, or the reverse."""
        if not self.storage.whole:
            if "verify" in self.image.model_fields_set:
                message = f"is for whole-disk images: leave it out, or take preset {WHOLE_DISK}"
                yield Fault(("image", "verify"), message)
            return
        if self.encryption is not None:
            message = f"{BRINGS_ITS_OWN}, encrypted or not: leave this out, or take another preset"
            yield Fault(("encryption",), message)
        if self.overlays:
            message = f"{BRINGS_ITS_OWN}, which are not opened: leave this out"
            yield Fault(("overlays",), message)
        for key in sorted(self.configure.model_fields_set):
            message = f"{BRINGS_ITS_OWN}, which are not opened: leave this out"
            yield Fault(("configure", key), message)
        if self.image.oci is not None:
            message = "a container has no disk in it: take another storage.preset"
            yield Fault(("image", "oci"), message)

    def _escrow_is_acknowledged(self) -> Iterator[Fault]:
        keepers = [one for one in self.report if isinstance(one, HttpReport)]
        if self.encryption is not None and not keepers:
            what = "has none of type http" if self.report else "is missing"
            message = f"{what}: the recovery key's envelope needs a server that acknowledges it"
            yield Fault(("report",), message)

    def _swap_is_encrypted(self) -> Iterator[Fault]:
        if self.storage.swap is not None and self.encryption is None:
            message = "needs encryption, or memory would lie open on the disk: take zram instead"
            yield Fault(("storage", "swap"), message)

    def _fips_throughout(self) -> Iterator[Fault]:
        encryption = self.encryption
        written = encryption is not None and "fips" in encryption.model_fields_set
        if encryption is not None and self.configure.fips and written and not encryption.fips:
            message = "is false, and configure.fips is true: leave this out"
            yield Fault(("encryption", "fips"), message)
