"""The file systems of a disk image, put together as the system would mount them, as a tar stream.

They are mounted read-only in a namespace of their own, which needs root and a kernel that has the
file systems; an ESP is read without. Nothing is copied but the ESP, into memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from agent.errors import CommandError
from agent.payload.sources.directory import TAR, steady
from agent.payload.sources.disk import Disk, raw_disk
from agent.payload.sources.mounts import Mount, Root, candidates, mounts
from agent.payload.sources.partitions import Part, parts_of
from agent.payload.sources.pieces import stream_of
from agent.payload.sources.ports import Reading, refused, run_for
from agent.payload.sources.qemu import Format, node_of, qemu_disk

_SCRIPT = Path(__file__).with_name("system.sh")
_FSTAB_LIMIT = 1 << 20
_OPTIONS = {"xfs": "ro,nouuid"}
"""By default `ro`. Two images of one system are alike, and xfs would not mount the second."""
_SUBVOLUMES = ("", "subvol=root", "subvol=@")
"""Where distributions keep the root in a btrfs whose default is not it."""
# The first line says that there is a root, the second which mount points an ESP may have.
_LOOK = """
[ -d etc ] && { [ -e etc/os-release ] || [ -h etc/os-release ] || [ -e etc/fstab ] ||
                [ -e usr/lib/os-release ] || [ -d usr ]; } || exit 0
echo root
for name in efi boot/efi boot; do [ ! -d $name ] || printf '/%s ' $name; done
echo
[ ! -f etc/fstab ] || head -c 1000000 etc/fstab
"""


@dataclass(frozen=True)
class Image:
    """A disk image in a file; `format` is None for a raw one."""

    path: Path
    format: Format | None
    reading: Reading

    def disk(self) -> AbstractContextManager[Disk]:
        """Open it to be read byte by byte."""
        if self.format is None:
            return raw_disk(self.path)
        return qemu_disk(self.path, self.format, self.reading)


@contextmanager
def system(image: Image) -> Iterator[BinaryIO]:
    """Yield a tar stream of the system in `image`; `PlanError` where there is none to be read."""
    where = str(image.path)
    with image.disk() as disk:
        parts = parts_of(disk)
    if os.geteuid() != 0:
        raise refused(where, "its file systems must be mounted to be read, which needs root")
    with run_for(where):
        root = _root(image, parts)
        found = mounts(parts, root, where)
        for mount in found:
            _check_clean(mount.part, where)
        lost = [f"--exclude=.{mount.at.rstrip('/')}/lost+found" for mount in found]
        program = (*TAR[:2], "--anchored", "--no-wildcards", *lost, *TAR[2:], ".")
        with _inside(image, found, program) as archive:
            yield stream_of(steady(archive, where), where)


def _root(image: Image, parts: Sequence[Part]) -> Root:
    for group in candidates(parts):
        for part in group:
            _check_clean(part, str(image.path))
        seen = [root for part in group if (root := _look(image, part)) is not None]
        if len(seen) > 1:
            there = " and ".join(str(root.mount.part) for root in seen)
            raise refused(str(image.path), f"has several systems, in {there}")
        if seen:
            return seen[0]
    there = ", ".join(str(part) for part in parts) or "no partition"
    message = "has no root file system that can be read here"
    raise refused(str(image.path), f"{message} (LVM, md and LUKS cannot); it has {there}")


def _look(image: Image, part: Part) -> Root | None:
    """Return what is in a file system, if that is a root."""
    choices = _SUBVOLUMES if part.system and part.system.type == "btrfs" else ("",)
    for subvolume in choices:
        mount = Mount("/", part, subvolume)
        try:
            with _inside(image, [mount], ("sh", "-euc", _LOOK)) as out:
                told = out.read(_FSTAB_LIMIT).decode(errors="replace")
        except CommandError:
            if not subvolume:
                raise
            continue  # there is no such subvolume
        if told:
            _, directories, fstab = told.split("\n", 2)
            return Root(mount, fstab, frozenset(directories.split()))
    return None


@contextmanager
def _inside(image: Image, mounted: Iterable[Mount], program: Sequence[str]) -> Iterator[IO[bytes]]:
    """Run a program in the root of what is mounted, and yield its output."""
    node = ""
    if image.format is not None:
        node = node_of(image.path, image.format, "disk")
    arguments = [word for mount in mounted for word in _words(mount)]
    private = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
    with tempfile.TemporaryDirectory(prefix=f"bedplate-source-{os.getpid()}-") as room:
        script = ("sh", _SCRIPT, room, image.path.absolute(), node)
        with image.reading(*private, *script, *arguments, "--", *program) as out:
            yield out


def _words(mount: Mount) -> tuple[str, ...]:
    part = mount.part
    assert part.system is not None
    options = _OPTIONS.get(part.system.type, "ro")
    options += f",{mount.subvolume}" if mount.subvolume else ""
    return str(part.start), str(part.size), part.system.type, options, mount.at


def _check_clean(part: Part, where: str) -> None:
    if part.system and part.system.dirty:
        message = f"{part} was not unmounted: its journal must be replayed"
        raise refused(where, f"{message}; start the system and shut it down, or run e2fsck")
