"""A copy of a medium for one host: the live image as it is, and what only this host shall find."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid5

from agent.errors import PlanError, Problem
from agent.media import disk, fat, iso
from agent.media.fat import Volume
from agent.media.names import LABEL, LOADER_OPTIONS
from agent.media.tools import Tools
from agent.payload import gpt

_ISO_MAGIC = (32769, b"CD001")
_MIB = 1 << 20


def personalize(
    source: Path, target: Path, files: Mapping[str, Path], options: str, tools: Tools
) -> None:
    """Write `target`: the ISO or disk image `source` with `files`, booting with `options` more.

    Raises `PlanError` where the source is neither, or is started without a loader that could add
    kernel options. What was at `target` stays until the new one is whole.
    """
    esp = _esp(source)
    if options and "debian" not in Volume(source, esp.start, tools).names("/EFI"):
        message = (
            "is not possible: the unified kernel image of this medium takes no further options"
        )
        raise PlanError([Problem("--cmdline", message)])
    partial = target.with_name(f"{target.name}.partial")
    try:
        with tempfile.TemporaryDirectory(prefix="bedplate-medium-") as scratch:
            script = Path(scratch, LOADER_OPTIONS)
            script.write_text(f"set extra='{options}'\n")
            loader = {LOADER_OPTIONS: script} if options else {}
            if _is_iso(source):
                iso.extend(source, partial, {**files, **loader}, _table(source).guid, tools)
                _trim(partial)
            else:
                _extend_disk(source, partial, files, loader, Path(scratch), tools)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _extend_disk(
    source: Path,
    target: Path,
    files: Mapping[str, Path],
    loader: Mapping[str, Path],
    scratch: Path,
    tools: Tools,
) -> None:
    """Copy the ESP and make the volume anew, as large as its files want it."""
    table = _table(source)
    esp, volume = _esp(source), table.partitions[-1]
    kept = scratch / "kept"
    kept.mkdir()
    Volume(source, volume.start, tools).copy_to(kept)
    wanted = {
        str(path.relative_to(kept)): path for path in sorted(kept.rglob("*")) if path.is_file()
    }
    wanted |= files
    if names := fat.too_large(wanted):
        message = "is too large for the FAT volume of a disk image (4 GiB), an ISO can hold it"
        raise PlanError([Problem(name, message) for name in names])
    size = fat.room_for(wanted, 16 * _MIB, 64 * _MIB)
    shutil.copyfile(source, target)
    os.truncate(target, esp.end)
    Volume(target, esp.start, tools).add(loader)
    _, at = disk.lay_out(target, esp.size, size, table.guid, tools)
    made = Volume(target, at, tools)
    made.format(size, LABEL, uuid5(table.guid, "volume").time_low)
    made.add(wanted)


def _trim(iso_image: Path) -> None:
    """End the image behind its backup table: xorriso writes in units of 64 KiB."""
    table = _table(iso_image)
    os.truncate(iso_image, table.alternate + table.sector)


def _is_iso(path: Path) -> bool:
    offset, magic = _ISO_MAGIC
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(len(magic)) == magic


def _table(path: Path) -> gpt.Table:
    with path.open("rb") as file:
        try:
            return gpt.parse(file.read(gpt.HEAD))
        except gpt.NoTable as error:
            raise PlanError([Problem(str(path), f"is no medium of bedplate: {error}")]) from None


def _esp(path: Path) -> gpt.Partition:
    table = _table(path)
    if table.esp is None or (not _is_iso(path) and len(table.partitions) != 2):
        raise PlanError(
            [Problem(str(path), "is no medium of bedplate: other partitions are there")]
        )
    return table.esp
