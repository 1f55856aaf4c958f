"""Read os-release(5) of the installed system."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from agent.target.tree import Tree

PLACES = ("/etc/os-release", "/usr/lib/os-release")


@dataclass(frozen=True)
class OsRelease:
    """`id` and `like` name the family; `name` and `title` are for people."""

    id: str = "linux"
    like: tuple[str, ...] = ()
    name: str = "Linux"
    title: str = "Linux"

    @property
    def debian(self) -> bool:
        return "debian" in (self.id, *self.like)

    @property
    def suse(self) -> bool:
        return self.id == "sles" or any("suse" in word for word in (self.id, *self.like))


def os_release(tree: Tree) -> OsRelease:
    """Return what the tree says of itself; os-release's own defaults where it says nothing."""
    path = next((place for place in PLACES if tree.exists(place)), None)
    fields = _fields(tree.read(path)) if path else {}
    name = fields.get("NAME", "Linux")
    version = fields.get("VERSION_ID", "")
    return OsRelease(
        id=fields.get("ID", "linux"),
        like=tuple(fields.get("ID_LIKE", "").split()),
        name=f"{name} {version}".strip(),
        title=fields.get("PRETTY_NAME", name),
    )


def _fields(text: str) -> Mapping[str, str]:
    fields = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#"):
            continue
        try:
            fields[key] = " ".join(shlex.split(value))
        except ValueError:  # a quote left open: systemd skips such a line too
            continue
    return fields
