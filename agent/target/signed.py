"""Where distributions keep the EFI programs that they sign: shim, GRUB and MokManager.

Debian and Ubuntu: /usr/lib/shim and /usr/lib/grub (packages shim-signed, grub-efi-*-signed).
SUSE: /usr/share/efi, as its shim-install looks for them. Fedora and RHEL: lately /usr/lib/efi,
/usr/lib/bootupd/updates in images made with bootupd, else /boot/efi, where packages unpack them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from agent.errors import StepError
from agent.target.boot import Copy
from agent.target.os_release import OsRelease
from agent.target.tree import Tree

_DEBIAN_SHIM, _DEBIAN_GRUB = "/usr/lib/shim", "/usr/lib/grub"
_SUSE = "/usr/share/efi"
_FEDORA = "/usr/lib/efi"
_PLAIN = ("/usr/lib/bootupd/updates/EFI", "/boot/efi/EFI")
_SHIM, _GRUB = r"shim(?:\w+)?\.efi(?:\.signed)?", r"grub(?:\w+)?\.efi(?:\.signed)?"
_MACHINES = {"x86_64": "x64", "aarch64": "aa64"}


@dataclass(frozen=True)
class Programs:
    """Their places in the tree, and what they are called on an ESP, where they find each other."""

    vendor: str
    """The directory below EFI/ that the signed GRUB looks into: it is built in."""
    machine: str
    """As UEFI abbreviates it: x64, aa64."""
    shim: str
    grub: str
    manager: str | None
    names: tuple[str, str, str]
    """What shim, GRUB and MokManager are called on the ESP; shim's second stage is built in."""

    def copies(self) -> tuple[Copy, ...]:
        """Return what makes an ESP start: the first is what a firmware entry names.

        The fallback has GRUB beside it, so that shim needs no fallback program, which would make
        entries of its own and start the machine over (shim's README.fallback).
        """
        shim, grub, manager = self.names
        vendor = f"EFI/{self.vendor}"
        found = [Copy(self.shim, f"{vendor}/{shim}"), Copy(self.grub, f"{vendor}/{grub}")]
        if self.manager is not None:
            found += (Copy(self.manager, f"{place}/{manager}") for place in (vendor, "EFI/BOOT"))
        return (
            *found,
            Copy(self.grub, f"EFI/BOOT/{grub}"),
            Copy(self.shim, f"EFI/BOOT/BOOT{self.machine.upper()}.EFI"),
        )


def has(tree: Tree, word: str) -> bool:
    """Tell whether the tree has a signed `shim` or `grub-signed` for any machine."""
    pattern = {"shim": _SHIM, "grub-signed": _GRUB}[word]
    return any(re.fullmatch(pattern, name) for name in _names(tree))


def debian(tree: Tree, os: OsRelease) -> Programs:
    """Return those of Debian and Ubuntu, or raise `StepError` naming what is missing."""
    shim, machine = _first(tree, _DEBIAN_SHIM, r"shim(\w+)\.efi\.signed", "signed shim")
    found = (
        f"{_DEBIAN_GRUB}/{directory}/grub{machine}.efi.signed"
        for directory in tree.names(_DEBIAN_GRUB)
        if directory.endswith("-efi-signed")
    )
    grub = next((path for path in found if tree.exists(path)), None)
    if grub is None:
        raise StepError(f"{_DEBIAN_GRUB}: the image has no signed GRUB for {machine} there")
    # Derivatives carry the programs of the distribution they are made from.
    family = (name for name in (os.id, *os.like) if name in {"debian", "ubuntu"})
    return Programs(
        vendor=next(family, os.id),
        machine=machine,
        shim=shim,
        grub=grub,
        # Debian's is called .signed, Ubuntu's, which shim itself vouches for, is not.
        manager=_if_there(tree, f"{_DEBIAN_SHIM}/mm{machine}.efi.signed")
        or _if_there(tree, f"{_DEBIAN_SHIM}/mm{machine}.efi"),
        names=(f"shim{machine}.efi", f"grub{machine}.efi", f"mm{machine}.efi"),
    )


def suse(tree: Tree, os: OsRelease) -> Programs:
    """Return those of SUSE, or raise `StepError` naming what is missing."""
    for directory, machine in _MACHINES.items():
        place = f"{_SUSE}/{directory}"
        if not tree.exists(f"{place}/shim.efi"):
            continue
        if not tree.exists(f"{place}/grub.efi"):
            raise StepError(f"{place}: the image has no signed GRUB there")
        return Programs(
            # As shim-install(8): the first word of the name, "SLES 15.6" or "openSUSE Leap 15.6".
            vendor=os.name.split()[0].lower(),
            machine=machine,
            shim=f"{place}/shim.efi",
            grub=f"{place}/grub.efi",
            manager=_if_there(tree, f"{place}/MokManager.efi"),
            names=("shim.efi", "grub.efi", "MokManager.efi"),
        )
    raise StepError(f"{_SUSE}: the image has no signed shim there")


def fedora(tree: Tree) -> Programs:
    """Return those of Fedora, RHEL and what is made from them, or raise `StepError`.

    Which vendor they belong to (fedora, redhat, centos, rocky…) their own directory says.
    """
    found = dict(_by_name(tree))
    for name, shim in found.items():
        match = re.fullmatch(r"([^/]+)/shim(x64|aa64)\.efi", name)
        if match is None:
            continue
        vendor, machine = match[1], match[2]
        grub = found.get(f"{vendor}/grub{machine}.efi")
        if grub is None:
            raise StepError(f"EFI/{vendor}/grub{machine}.efi: the image has no signed GRUB")
        return Programs(
            vendor=vendor,
            machine=machine,
            shim=shim,
            grub=grub,
            manager=found.get(f"{vendor}/mm{machine}.efi"),
            names=(f"shim{machine}.efi", f"grub{machine}.efi", f"mm{machine}.efi"),
        )
    raise StepError(f"{_FEDORA}, {', '.join(_PLAIN)}: the image has no signed shim there")


def _by_name(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield VENDOR/FILE and its path; what comes later is newer or better kept, and counts."""
    for place in (_PLAIN[1], _PLAIN[0], *_versioned(tree)):
        for vendor in tree.names(place):
            if vendor.upper() == "BOOT":
                continue
            for name in tree.names(f"{place}/{vendor}"):
                yield f"{vendor}/{name}", f"{place}/{vendor}/{name}"


def _versioned(tree: Tree) -> Iterator[str]:
    """Yield /usr/lib/efi/PACKAGE/VERSION/EFI, older versions first."""
    for package in tree.names(_FEDORA):
        versions = tree.names(f"{_FEDORA}/{package}")
        for version in sorted(versions, key=_age):
            yield f"{_FEDORA}/{package}/{version}/EFI"


def _age(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _names(tree: Tree) -> Iterator[str]:
    """Yield the name of every file where any of the families keeps signed programs."""
    yield from tree.names(_DEBIAN_SHIM)
    for directory in tree.names(_DEBIAN_GRUB):
        if directory.endswith("-efi-signed"):
            yield from tree.names(f"{_DEBIAN_GRUB}/{directory}")
    for directory in _MACHINES:
        yield from tree.names(f"{_SUSE}/{directory}")
    yield from (PurePosixPath(path).name for _, path in _by_name(tree))


def _first(tree: Tree, directory: str, pattern: str, what: str) -> tuple[str, str]:
    for name in tree.names(directory):
        match = re.fullmatch(pattern, name)
        if match:
            return f"{directory}/{name}", match[1]
    raise StepError(f"{directory}: the image has no {what} there")


def _if_there(tree: Tree, path: str) -> str | None:
    return path if tree.exists(path) else None
