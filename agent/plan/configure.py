"""What the image does not know about this host."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StrictBool, StrictStr

from agent.plan.cloud_init import Seed
from agent.plan.network import EVERY_WIRED_BY_DHCP, Network, network_faults
from agent.plan.part import Fault, Kind, Part, shown
from agent.plan.ssh import AuthorizedKey
from agent.plan.text import AbsolutePath

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_MODE = re.compile(r"0?[0-7]{3}|[0-7]{4}")
_KERNEL_OPTION = re.compile(r"[!#-&(-~]{1,512}")  # printable ASCII without blanks and quotes

# The installation decides these; a second value on the command line would fight with it.
OURS_ON_THE_COMMAND_LINE = ("root", "rootflags", "resume", "init", "initrd", "BOOT_IMAGE", "boot")
OUR_PREFIXES = ("rd.luks", "rd.md", "rd.lvm", "luks.", "bedplate.")
OUR_FILES = frozenset(
    {
        "/etc/cloud/cloud-init.disabled",
        "/etc/crypttab",
        "/etc/fstab",
        "/etc/hostname",
        "/etc/kernel/cmdline",
        "/etc/machine-id",
        "/etc/mdadm.conf",
        "/etc/mdadm/mdadm.conf",
    }
)
NOT_KEPT = ("/dev", "/proc", "/run", "/sys", "/tmp")  # noqa: S108 – refused, not used


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
    if name == "fips":
        hint = "write configure.fips: true, which asks the image whether it can start so"
        raise ValueError(f"{shown(text)} is not enough by itself: {hint}")
    if name in OURS_ON_THE_COMMAND_LINE or name.startswith(OUR_PREFIXES):
        raise ValueError(f"{shown(text)} is the installation's to decide: leave it out")
    return text


class File(Part):
    """A file that is written into the installed system, owned by root.

    Files that the installation writes itself, such as `/etc/fstab`, are refused.
    """

    later: ClassVar[frozenset[str]] = frozenset({"group", "owner"})
    example: ClassVar[str] = """\
path: /etc/motd
mode: "0644"
content: |
  Installed by Bedplate.
"""

    path: AbsolutePath = Field(description="where; folders above it are made if need be")
    mode: Annotated[StrictStr, Kind("octal digits"), AfterValidator(parse_mode)] = Field(
        "0644", description="permissions, in quotes"
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
        if self.path == "/" or "/" + self.path.split("/")[1] in NOT_KEPT:
            yield Fault(("path",), f"{self.path} would not be there after a reboot")


Account = Annotated[StrictStr, Kind("account"), AfterValidator(parse_user)]
KernelOption = Annotated[StrictStr, Kind("kernel option"), AfterValidator(parse_kernel_option)]
Keys = Annotated[tuple[AuthorizedKey, ...], Field(min_length=1)]


class Configure(Part):
    """What the image does not know about this host, written into the installed system."""

    later: ClassVar[frozenset[str]] = frozenset({"keymap", "locale", "timezone"})
    example: ClassVar[str] = """\
network: {dhcp: yes}
ssh_authorized_keys:
  root:
    - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHc8hKnSJ6PK4Yr/PRQ7jlq5GlWGNiN3IM8P1Ip5xBET admin
files:
  - {path: /etc/motd, mode: "0644", content: "Installed by Bedplate.\\n"}
kernel_options: ["console=tty0", "console=ttyS0,115200"]
"""

    network: Network = Field(
        EVERY_WIRED_BY_DHCP, description="the interfaces, or one mapping for every wired one"
    )
    ssh_authorized_keys: Mapping[Account, Keys] = Field(
        {}, description="public keys that may log in, by account"
    )
    files: tuple[File, ...] = Field((), description="files to write")
    kernel_options: tuple[KernelOption, ...] = Field(
        (),
        description="added to the kernel command line; `root=`, `rd.luks…` and the like are the "
        "installation's own",
    )

    cloud_init: Seed = Field(
        None,
        description="what cloud-init finds, where the image has it: without a seed it is switched "
        "off",
    )
    fips: StrictBool = Field(
        False,
        description="true starts the installed system in FIPS mode: kernel options, dracut's fips "
        "module, the system's crypto policy. The image must have a validated kernel with its HMAC",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._interfaces(), self._files_differ(), self._one_network()

    def _one_network(self) -> Iterator[Fault]:
        seed = self.cloud_init
        own = seed is not None and seed.network_config is not None
        if own and self.network != EVERY_WIRED_BY_DHCP:
            message = "cloud_init.network_config sets up the network too: give one of the two"
            yield Fault(("network",), message)

    def _interfaces(self) -> Iterator[Fault]:
        for path, message in network_faults(self.network):
            yield Fault(("network", *path), message)

    def _files_differ(self) -> Iterator[Fault]:
        paths = [file.path for file in self.files]
        for number, path in enumerate(paths):
            if path in paths[:number]:
                yield Fault(("files", number, "path"), f"{path} is there twice")
