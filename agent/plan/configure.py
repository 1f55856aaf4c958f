"""What the image does not know about this host."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StrictStr

from agent.plan.network import EVERY_WIRED_BY_DHCP, Network, network_faults
from agent.plan.part import Fault, Part, shown
from agent.plan.ssh import AuthorizedKey
from agent.plan.text import AbsolutePath

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_MODE = re.compile(r"0?[0-7]{3}|[0-7]{4}")
_KERNEL_OPTION = re.compile(r"[!#-&(-~]{1,512}")  # printable ASCII without blanks and quotes

# The installation decides these; a second value on the command line would fight with it.
OURS_ON_THE_COMMAND_LINE = ("root", "rootflags", "resume", "init", "initrd", "BOOT_IMAGE")
OUR_PREFIXES = ("rd.luks", "rd.md", "rd.lvm", "bedplate.", "systemd.verity", "luks.")
OUR_FILES = frozenset(
    {
        "/etc/crypttab",
        "/etc/fstab",
        "/etc/hostname",
        "/etc/machine-id",
        "/etc/mdadm.conf",
        "/etc/mdadm/mdadm.conf",
        "/etc/kernel/cmdline",
    }
)
VIRTUAL = ("/dev", "/proc", "/run", "/sys", "/tmp")  # noqa: S108 – refused, not used


def parse_user(text: str) -> str:
    """Return the name of an account."""
    if not _USER.fullmatch(text):
        raise ValueError(f"{shown(text)} is not an account name such as root")
    return text


def parse_mode(text: str) -> str:
    """Return permissions as four octal digits."""
    if not _MODE.fullmatch(text):
        raise ValueError(f'{shown(text)} is not a mode: write octal digits in quotes, "0644"')
    return text.rjust(4, "0")


def parse_kernel_option(text: str) -> str:
    """Return one kernel option that the installation does not decide itself."""
    if not _KERNEL_OPTION.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a kernel option: one word without quotes")
    name = text.partition("=")[0]
    if name in OURS_ON_THE_COMMAND_LINE or name.startswith(OUR_PREFIXES):
        raise ValueError(f"{shown(text)} is the installation's to decide: leave it out")
    return text


class File(Part):
    """A file that is written into the installed system, owned by root."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"owner", "group", "source", "url", "encoding", "append", "selinux"}
    )

    path: AbsolutePath = Field(description="where; folders above it are made if need be")
    mode: Annotated[StrictStr, AfterValidator(parse_mode)] = Field(
        "0644", description="permissions in octal; quote them"
    )
    content: StrictStr = Field(description="the text of the file", repr=False)

    @property
    def permissions(self) -> int:
        return int(self.mode, 8)

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._path(),)

    def _path(self) -> Iterator[Fault]:
        if self.path in OUR_FILES:
            yield Fault(("path",), f"{self.path} is written by the installation itself")
        if self.path == "/" or "/" + self.path.split("/")[1] in VIRTUAL:
            yield Fault(("path",), f"{self.path} would not be there after a reboot")


Keys = Annotated[tuple[AuthorizedKey, ...], Field(min_length=1)]
AuthorizedKeys = Mapping[Annotated[StrictStr, AfterValidator(parse_user)], Keys]


class Configure(Part):
    """What is written into the installed system for this host."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "timezone",
            "locale",
            "keymap",
            "users",
            "packages",
            "scripts",
            "commands",
            "cloud_init",
            "selinux",
            "ntp",
            "proxy",
        }
    )

    network: Network = Field(
        EVERY_WIRED_BY_DHCP,
        description="{dhcp: yes} for every wired interface, or a list of interfaces",
    )
    ssh_authorized_keys: AuthorizedKeys = Field(
        {}, description="public keys that may log in, by account"
    )
    files: tuple[File, ...] = Field((), description="files to write")
    kernel_options: tuple[Annotated[StrictStr, AfterValidator(parse_kernel_option)], ...] = Field(
        (), description="added to the kernel command line of the installed system"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._network(), self._files()

    def _network(self) -> Iterator[Fault]:
        for path, message in network_faults(self.network):
            yield Fault(("network", *path), message)

    def _files(self) -> Iterator[Fault]:
        paths = [file.path for file in self.files]
        for number, path in enumerate(paths):
            if path in paths[:number]:
                yield Fault(("files", number, "path"), f"{path} is there twice")
