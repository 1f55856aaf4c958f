"""A hybrid ISO: a CD that UEFI starts by El Torito, and a disk with an ESP once it is on a stick.

The ESP is one FAT image, appended to the ISO 9660 file system; El Torito's catalogue and the GUID
partition table both point at it. Kernel and initrd lie in there, the ISO 9660 file system holds
what the operator adds.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from agent.media.names import LABEL
from agent.media.tools import Tools
from agent.payload import gpt


def create(iso: Path, esp: Path, files: Mapping[str, Path], guid: UUID, tools: Tools) -> None:
    """Write the ISO from the ESP's image and the files of its file system."""
    moment = datetime.fromtimestamp(tools.epoch, UTC).strftime("%Y%m%d%H%M%S00")
    with tempfile.TemporaryDirectory(prefix="bedplate-iso-") as place:
        for name, source in files.items():
            target = Path(place, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        tools.run(
            "xorriso", "-as", "mkisofs", "-quiet", "-r", "-no-pad", "-iso-level", "3", "-V", LABEL,
            "-o", iso, f"--modification-date={moment}",
            "--set_all_file_dates", moment, "--gpt_disk_guid", str(guid),
            "-partition_offset", "16",
            "-append_partition", "2", str(gpt.TYPE_ESP), esp, "-appended_part_as_gpt",
            "-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot",
            place,
        )  # fmt: skip


def extend(source: Path, target: Path, files: Mapping[str, Path], guid: UUID, tools: Tools) -> None:
    """Write a copy of an ISO with more files in it; one that is there already is replaced.

    The boot image and the tables are carried over; `guid` is the disk's id, which the partitions'
    ids come from. Takes as long as copying it.
    """
    target.unlink(missing_ok=True)
    mapped: list[str | Path] = []
    for name, path in sorted(files.items()):
        mapped += ["-map", path.resolve(), f"/{name}"]
    tools.run(
        "xorriso", "-abort_on", "FAILURE", "-overwrite", "on", "-compliance", "iso_9660_level=3",
        "-indev", source, "-outdev", target, "-volid", LABEL, "-boot_image", "any", "replay",
        "-boot_image", "any", f"gpt_disk_guid={guid}", "-padding", "0",
        *mapped,
        "-find", "/", "-exec", "chown", "0", "--", "-find", "/", "-exec", "chgrp", "0", "--",
        "-find", "/", "-type", "f", "-exec", "chmod", "0444", "--",
        timeout=3600,
    )  # fmt: skip
