"""Tell by its first bytes what somebody wants packed; names and suffixes are not believed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

from agent.errors import PlanError
from agent.payload.sources.filesystem import HEAD as HEAD
from agent.payload.sources.filesystem import probe
from agent.payload.sources.headers import Members
from agent.payload.sources.layout import belongs
from agent.payload.tar import BLOCK

Form = Literal["tar", "container", "disk", "qcow2", "vmdk", "filesystem", "other"]
"""A container is an archive that begins as one; others are told by name only."""

_OTHERS = (
    (0, b"vhdxfile", "a vhdx image"),
    (0, b"conectix", "a vhd image"),
    (0x40, b"\x7f\x10\xda\xbe", "a vdi image"),
    (0, b"# Disk DescriptorFile", "a vmdk description, whose content lies in other files"),
    (0, b"COWD", "a vmdk image of ESX 2"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"070701", "a cpio archive"),
    (0, b"!<arch>", "an ar archive, or a Debian package"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"\x7fELF", "a program"),
    (0, b"LZIP", "compressed by lzip"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4"),
)


@dataclass(frozen=True)
class Found:
    """What it is; `name` says it to people, for a file system it is its type."""

    form: Form
    name: str


def detect(head: bytes) -> Found | None:
    """Return what begins with these bytes (`HEAD` of them, if there are so many), or None."""
    if head[:4] == b"QFI\xfb":
        return Found("qcow2", "a qcow2 image")
    if head[:4] == b"KDMV":
        return Found("vmdk", "a vmdk image")
    for at, magic, name in _OTHERS:
        if head[at : at + len(magic)] == magic:
            return Found("other", name)
    if _is_tar(head[:BLOCK]):
        if belongs(_first_name(head)):
            return Found("container", "a container image's archive")
        return Found("tar", "a tar archive")
    if b"EFI PART" in (head[512:520], head[4096:4104]):
        return Found("disk", "a whole disk")
    system = probe(head)
    if system:
        return Found("filesystem", system.type)
    if head[510:512] == b"\x55\xaa":
        return Found("disk", "a whole disk")
    return None


def _first_name(head: bytes) -> bytes:
    """Return the first member's name that is not the root's, if it is there."""
    try:
        for header in Members(io.BytesIO(head), ""):
            if header.path:
                return header.path
    except PlanError:  # it is cut off, or it is damaged, which others will say better
        pass
    return b""


def _is_tar(block: bytes) -> bool:
    """Tell whether this is a tar header: its sum is right."""
    digits = block[148:156].strip(b" \0")
    if len(block) < BLOCK or not digits.isdigit() or b"8" in digits or b"9" in digits:
        return False
    return int(digits, 8) == sum(block) - sum(block[148:156]) + 8 * 32
