"""Take the initrd out of a unified kernel image that an image brings, mkosi's own for example.

Such a program (UAPI.5) holds kernel, initrd and a command line, in one signature. The command line
is the same on every host and cannot name the disks of one, and with Secure Boot nothing but signed
addons may add to it. So it is not started: its initrd is laid beside the kernel that the image has
in /usr/lib/modules, and both are started with the command line of this host.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from agent.target.tree import Tree

PLACES = ("/usr/lib/modules/{}", "/boot/EFI/Linux", "/efi/EFI/Linux", "/boot/efi/EFI/Linux")
_LONGEST_TEXT = 64 << 10


@dataclass(frozen=True)
class Unified:
    """One of a tree: its path, and section -> (offset in bytes, size in bytes)."""

    path: str
    sections: dict[str, tuple[int, int]]

    def text(self, tree: Tree, section: str) -> str:
        """Return a section as text, empty where there is none."""
        offset, size = self.sections.get(section, (0, 0))
        with tree.locate(self.path).open("rb") as stream:
            stream.seek(offset)
            return stream.read(min(size, _LONGEST_TEXT)).rstrip(b"\0").decode(errors="replace")


def find(tree: Tree, version: str) -> Unified | None:
    """Return the unified kernel image with an initrd for this kernel, None where there is none."""
    for found in _all(tree, version):
        if ".initrd" in found.sections and found.text(tree, ".uname").strip() == version:
            return found
    return None


def take_initrd(tree: Tree, unified: Unified, place: str) -> None:
    """Write its initrd to a path of the tree; raises `StepError`."""
    offset, size = unified.sections[".initrd"]
    tree.duplicate(unified.path, place, extent=(offset, size))


def _all(tree: Tree, version: str) -> Iterator[Unified]:
    for place in PLACES:
        directory = place.format(version)
        for name in tree.names(directory):
            path = f"{directory}/{name}"
            if not name.lower().endswith(".efi") or not tree.locate(path).is_file():
                continue
            with tree.locate(path).open("rb") as stream:
                yield Unified(path, dict(_sections(stream)))


def _sections(stream: BinaryIO) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the sections of a PE program; none for what is not one, or is cut.

    PE/COFF specification, sections 2 to 4: where the header lies stands at 0x3c; it has 24 bytes
    with the signature, and the table of sections follows an optional header.
    """
    try:
        head = _exactly(stream, 0, 64)
        (at,) = struct.unpack_from("<I", head, 0x3C)
        header = _exactly(stream, at, 24)
        if head[:2] != b"MZ" or header[:4] != b"PE\0\0":
            return
        count, optional = struct.unpack_from("<H12xH", header, 6)
        table = _exactly(stream, at + 24 + optional, 40 * count)
    except EOFError:
        return
    seen = set()
    for each in range(0, len(table), 40):
        name, size, _, stored, offset = struct.unpack_from("<8s4I", table, each)
        word = name.rstrip(b"\0").decode(errors="replace")
        # The first of a name: profiles repeat sections for other command lines.
        if word not in seen:
            seen.add(word)
            yield word, (offset, min(size, stored))


def _exactly(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    got = stream.read(size)
    if len(got) < size:
        raise EOFError
    return got
