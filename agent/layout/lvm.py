"""Names of logical volumes: after their mount points, and only such as LVM takes.

A name that LVM refuses would be found out after the disks were erased, so all of its rules that a
plan could break are here (lvm(8), VALID NAMES).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.errors import Problem

LONGEST = 55
"""Characters of a group's or a volume's name. Device-mapper names end at 127 characters, of which
LVM may need some itself, and each dash counts twice; blivet takes no more than this."""

_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*")
# Names of LVM's own hidden volumes (lvm2, lib/misc/lvm-string.c, apply_lvname_restrictions).
_OWN_PREFIXES = ("pvmove", "snapshot")
_OWN_PARTS = (
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog",
    "_pmspare", "_rimage", "_rmeta", "_tdata", "_tmeta", "_tpool", "_vdata", "_vorigin", "_wcorig",
)  # fmt: skip


def volume_name(mount: str) -> str:
    """Return the logical volume's name: `/` is root, `/var/log/audit` is var_log_audit."""
    return mount.strip("/").replace("/", "_") or "root"


def mapper_path(group: str, volume: str) -> Path:
    """Return the device-mapper path of a volume: LVM doubles the dashes inside names (lvm(8))."""
    return Path("/dev/mapper") / f"{group.replace('-', '--')}-{volume.replace('-', '--')}"


def name_problems(group: str, mounts: Sequence[str]) -> Iterator[Problem]:
    """Yield why a volume group cannot have a volume for each of the mount points."""
    if len(group) > LONGEST:
        yield Problem(
            "storage.volume_group",
            f"{group} has {len(group)} characters, the name may have {LONGEST}",
        )
    taken: dict[str, str] = {}
    for mount in mounts:
        name = volume_name(mount)
        why = _refused(name)
        if why is not None:
            yield Problem("storage.volumes", f"{mount} would be the logical volume {name}, {why}")
        if name in taken:
            yield Problem(
                "storage.volumes",
                f"{taken[name]} and {mount} would both be the logical volume {name}",
            )
        taken.setdefault(name, mount)


def _refused(name: str) -> str | None:
    if len(name) > LONGEST:
        return f"whose name has {len(name)} characters and may have {LONGEST}"
    if not _NAME.fullmatch(name):
        return "whose name may hold letters, digits, _ + . and - and begins with no -"
    if name.startswith(_OWN_PREFIXES) or any(part in name for part in _OWN_PARTS):
        return "a name that LVM keeps for itself"
    return None
