"""Everything that can be told apart in a tree of files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

FIELDS = ("st_mode", "st_uid", "st_gid", "st_rdev", "st_nlink", "st_mtime_ns")


def snapshot(root: Path) -> dict[str, dict[str, object]]:
    """Return path below `root` → what it is: status, content, attributes, links, holes."""
    paths = sorted([root, *walk(root)])
    first: dict[int, str] = {}
    found: dict[str, dict[str, object]] = {}
    for path in paths:
        name = str(path.relative_to(root))
        status = path.lstat()
        what: dict[str, object] = {field: getattr(status, field) for field in FIELDS}
        names = os.listxattr(path, follow_symlinks=False)
        what["attributes"] = {n: os.getxattr(path, n, follow_symlinks=False) for n in names}
        if stat.S_ISLNK(status.st_mode):
            what["target"] = str(path.readlink())
        if stat.S_ISREG(status.st_mode):
            what["size"] = status.st_size
            what["content"] = sha256(path.read_bytes()).hexdigest()
            what["sparse"] = status.st_blocks * 512 < status.st_size
        if not stat.S_ISDIR(status.st_mode):
            what["same as"] = first.setdefault(status.st_ino, name)
        found[name] = what
    return found


def walk(root: Path) -> Iterator[Path]:
    """Yield all that is below `root`, without following links."""
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            yield Path(directory, name)
