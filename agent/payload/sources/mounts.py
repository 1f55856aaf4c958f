"""Decide which partition of a disk image is mounted where: by its fstab, then by its types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.payload.sources.partitions import ESP, PLACES, ROOTS, Part
from agent.payload.sources.ports import refused

READABLE = frozenset({"ext4", "xfs", "btrfs", "erofs", "squashfs", "vfat"})
"""File systems whose content is taken."""
_ROOT_NAMES = frozenset({"/", "root", "rootfs", "cloudimg-rootfs", "system"})
_SKIPPED = frozenset({"swap", "tmpfs", "proc", "sysfs", "devpts", "overlay", "iso9660", "auto"})
_NETWORK = re.compile(r"nfs|cifs|smb|9p|virtiofs|ceph|gluster|sshfs|fuse")
_ESCAPE = re.compile(r"\\([0-7]{3})")
_BY = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)")
_DEVICE = re.compile(r"/dev/(?:[shv]da|xvda|nvme0n1p|mmcblk0p)(\d+)")


@dataclass(frozen=True)
class Mount:
    """A partition at its mount point; `subvolume` is btrfs's option, or empty."""

    at: str
    part: Part
    subvolume: str = ""


@dataclass(frozen=True)
class Root:
    """What was seen in the root: its fstab, and which of the usual directories it has."""

    mount: Mount
    fstab: str
    directories: frozenset[str]


def candidates(parts: Sequence[Part]) -> Iterator[tuple[Part, ...]]:
    """Yield where the root may be, the best first: by type, by name, by having Linux files."""
    linux = [
        part
        for part in parts
        if part.system and part.system.type in READABLE - {"vfat"} and part.type not in PLACES
    ]
    typed = [part for part in linux if part.type in ROOTS]
    named = [part for part in linux if _names(part) & _ROOT_NAMES]
    yield from (tuple(group) for group in (typed, named, linux) if group)


def mounts(parts: Sequence[Part], root: Root, where: str) -> tuple[Mount, ...]:
    """Return all mounts, a directory before what is below it.

    The fstab of the root comes first; a partition that it does not name goes where its type says.
    Raises `PlanError` if fstab wants something that this image has not.
    """
    found = {"/": root.mount}
    for fields in _lines(root.fstab):
        mount = _mount(fields, parts, where)
        if mount is not None and mount.at not in found:
            found[mount.at] = mount
    taken = {mount.part.number for mount in found.values()}
    for part in parts:
        place = _place(part, root.directories)
        usable = part.system and part.system.type in READABLE and part.number not in taken
        if place and usable and place not in found:
            found[place] = Mount(place, part)
    return tuple(found[at] for at in sorted(found))


def _lines(fstab: str) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    """Take fstab(5) apart: source, mount point, type, options."""
    for line in fstab.splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        source, at = (_ESCAPE.sub(lambda code: chr(int(code[1], 8)), one) for one in fields[:2])
        type_ = fields[2]
        options = frozenset(fields[3].split(",")) if len(fields) > 3 else frozenset()
        yield source, at, type_, options


def _mount(
    fields: tuple[str, str, str, frozenset[str]], parts: Sequence[Part], where: str
) -> Mount | None:
    source, at, type_, options = fields
    if not at.startswith("/") or type_ in _SKIPPED or _NETWORK.match(type_) or "bind" in options:
        return None
    part = next((part for part in parts if _is(part, source)), None)
    at = "/" + "/".join(word for word in at.split("/") if word not in ("", ".", ".."))
    if part is None:
        if at == "/" or options & {"nofail", "noauto"}:
            return None
        raise refused(where, f"{at}: is on {source}, which is no partition of this image")
    if part.system is None or part.system.type not in READABLE:
        raise refused(where, f"{at}: is on {part}, which cannot be read here")
    chosen = sorted(option for option in options if option.startswith("subvol"))
    subvolume = chosen[0] if chosen and part.system.type == "btrfs" else ""
    return Mount(at, part, subvolume)


def _is(part: Part, source: str) -> bool:
    key, equals, value = source.partition("=")
    if by := _BY.fullmatch(source):
        key, equals, value = by[1].upper(), "=", by[2].replace(r"\x20", " ")
    elif device := _DEVICE.fullmatch(source):
        return part.number == int(device[1])
    if not equals:
        return False
    value = value.strip('"')
    uuid, label = (part.system.uuid, part.system.label) if part.system else ("", "")
    known = {"UUID": uuid, "PARTUUID": part.partuuid, "LABEL": label, "PARTLABEL": part.name}
    if key in ("UUID", "PARTUUID"):
        value = value.lower()
    return bool(value) and known.get(key) == value


def _place(part: Part, directories: frozenset[str]) -> str | None:
    if part.type != ESP:
        return PLACES.get(part.type)
    return next((at for at in ("/efi", "/boot/efi", "/boot") if at in directories), None)


def _names(part: Part) -> set[str]:
    names = {part.name.lower()}
    if part.system:
        names.add(part.system.label.lower())
    return names
