"""Further disks for data: an array of their own, with volumes that the system starts without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictInt, StrictStr

from agent.plan.disks import Where, enough_are_named
from agent.plan.part import Fault, Kind, Part, one_of, shown
from agent.plan.size import Size
from agent.plan.volume import Volume, add_up, mounted_once

Level = Literal["single", "raid1", "raid10"]
LEVELS = ("single", "raid1", "raid10")
FEWEST = {"single": 1, "raid1": 2, "raid10": 4}
"""Disks; md makes a RAID10 of fewer, which is a mirror with another name."""
MOST = 32

_NAME = re.compile(r"[a-z][a-z0-9_]{0,15}")
# Names of the system's own arrays, and what mdadm takes for a device node instead of a name.
_TAKEN = re.compile(r"boot|root|esp|md_?d?[0-9]+")
# What is written or read before the network is there, and what stands in everybody's way.
NEEDED_EARLY = frozenset({"/", "/root", "/tmp", "/var", "/var/lib", "/var/log", "/var/tmp"})  # noqa: S108
_BELOW = ("/boot/", "/etc/", "/usr/", "/var/log/audit")


def parse_array_name(text: str) -> str:
    """Return a name for an array, its encrypted volume and its volume group."""
    if not _NAME.fullmatch(text):
        message = f"{shown(text)} is not a name: a letter, then up to 15 letters, digits and _"
        raise ValueError(message)
    if _TAKEN.fullmatch(text):
        raise ValueError(f"{shown(text)} is a name that the system uses itself: take another")
    return text


class DataArray(Part):
    """Further disks for data, under the same encryption as the system's.

    The disks become one array, encrypted with key slots, a recovery key and an envelope of its own,
    and a volume group with these volumes. Each needs `size` or `grow`; shares are of this group. A
    mount point that the preset has lies here instead of on the system's disks, with its options.

    The system starts without these disks: they are opened when the network is up, every volume is
    mounted `nofail`, and an array that lost a disk is mounted degraded. A service that must not
    start without its data needs `RequiresMountsFor=` in its unit. So `/var`, `/var/log` and what
    else is needed early cannot lie here.

    `raid10` keeps everything twice, on 4 disks or more; an odd number is possible and uses all of
    them. `disks.erase` and `disks.secure_erase` hold for these disks too. They carry no marker of
    an installation: with `erase: owned` they must be from the one whose marker the system's disks
    carry.
    """

    later: ClassVar[frozenset[str]] = frozenset({"keep", "spares"})
    example: ClassVar[str] = """\
name: pgdata
level: raid10
count: 4
where: {transport: sas, size: ">= 1 TB"}
volumes:
  - {mount: /var/lib/pgsql, grow: true, options: [nodev, nosuid]}
"""

    name: Annotated[StrictStr, Kind("name"), AfterValidator(parse_array_name)] = Field(
        description="what the array is called; its volume group is called after the system's and it"
    )
    level: Annotated[Level, one_of(LEVELS, later=("raid0", "raid5", "raid6"))] = Field(
        description="`single` for one disk without a mirror, `raid1`, or `raid10`"
    )
    count: Annotated[StrictInt, Field(ge=1, le=MOST)] = Field(
        description="how many disks; exactly as many of those that are not the system's must match"
    )
    where: Where = Field(Where(), description="what the disks must be, as for the system's")
    volumes: tuple[Volume, ...] = Field(description="what lies on it", min_length=1)
    leave: Size | None = Field(
        None, description="stays free in the volume group, for snapshots and for later"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (
            self._count_fits(),
            self._enough_are_named(),
            self._mounts_differ(),
            self._shares(),
            self._not_needed_early(),
        )

    def _count_fits(self) -> Iterator[Fault]:
        fewest = FEWEST[self.level]
        if self.level == "single" and self.count > 1:
            message = f"single is one disk, count asks for {self.count}: take raid1 or raid10"
            yield Fault(("count",), message)
        elif self.count < fewest:
            fewer = "raid1" if self.count > 1 else "single"
            yield Fault(
                ("count",),
                f"{self.level} needs {fewest} disks or more, count asks for {self.count}: "
                f"take {fewer}, or more disks",
            )

    def _enough_are_named(self) -> Iterator[Fault]:
        yield from enough_are_named(self.where, self.count)

    def _mounts_differ(self) -> Iterator[Fault]:
        yield from mounted_once(self.volumes)

    def _shares(self) -> Iterator[Fault]:
        yield from add_up([*(volume.size for volume in self.volumes), self.leave])

    def _not_needed_early(self) -> Iterator[Fault]:
        for number, volume in enumerate(self.volumes):
            if volume.mount in NEEDED_EARLY or volume.mount.startswith(_BELOW):
                message = f"{volume.mount} is needed before disks of data are opened: leave it"
                yield Fault(("volumes", number, "mount"), f"{message} on the system's disks")
