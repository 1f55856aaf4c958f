"""File systems, mount points and mount options, as plans and presets name them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, StrictStr

from agent.plan.part import NOT_YET, Fault, Kind, one_of, shown
from agent.plan.size import MiB

FILE_SYSTEMS = ("xfs", "ext4", "btrfs")
FileSystem = Annotated[Literal["xfs", "ext4", "btrfs"], one_of(FILE_SYSTEMS)]

# What mkfs accepts: mkfs.xfs(8) refuses less than 300 MiB, ext4 needs room for its journal, and
# btrfs keeps its metadata twice. A page of swap would do.
SMALLEST = {"xfs": 300 * MiB, "ext4": 64 * MiB, "btrfs": 512 * MiB, "swap": 16 * MiB}

_MOUNT = re.compile(r"/|(?:/[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,63}){1,8}")
_OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=/+@%-]{0,127}")
# Mount points that are not the plan's to give: partitions, what the boot itself needs on the root
# volume, and what the kernel provides.
PARTITIONS = ("/boot", "/boot/efi", "/efi")
ON_ROOT = ("/bin", "/etc", "/lib", "/lib64", "/sbin", "/usr")
VIRTUAL = ("/dev", "/proc", "/run", "/sys")


def parse_mount(text: str) -> str:
    """Return a mount point; only characters that fstab and LVM take without escapes."""
    if not _MOUNT.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a mount point such as /var/log")
    return text


def parse_option(text: str) -> str:
    """Return one mount option; raise ValueError where it is none."""
    if not _OPTION.fullmatch(text):
        hint = ": give each option by itself in the list" if "," in text else ""
        raise ValueError(f"{shown(text)} is not a mount option{hint}")
    return text


MountPoint = Annotated[StrictStr, Kind("mount point"), AfterValidator(parse_mount)]
Option = Annotated[StrictStr, Kind("mount option"), AfterValidator(parse_option)]


def misplaced(mount: str) -> Iterator[Fault]:
    """Yield why no volume can be mounted there."""
    if mount in PARTITIONS:
        yield Fault(("mount",), f"{mount} is a partition: changing it {NOT_YET}")
    if mount in ON_ROOT:
        yield Fault(("mount",), f"{mount} belongs on /, which boots with it")
    top = "/" + mount.split("/")[1]
    if top in VIRTUAL:
        yield Fault(("mount",), f"{mount} lies on {top}, which the kernel provides")
