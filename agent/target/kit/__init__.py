"""What the installed system keeps of us: plain sh, systemd units, nothing of this package.

Each part is a module with a function that returns a `Kit`; the files themselves lie beside it, to
be read, linted and tested as what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from agent.target.tree import TargetFile, Tree

SBIN = "/usr/local/sbin"
UNITS = "/etc/systemd/system"


@dataclass(frozen=True)
class Kit:
    """Files to write and units to enable, as (target, unit): `multi-user.target`, `x.path`."""

    files: tuple[TargetFile, ...] = ()
    enabled: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: Kit) -> Kit:
        return Kit(self.files + other.files, self.enabled + other.enabled)

    def write(self, tree: Tree) -> None:
        """Put it into the tree. Units are enabled by links, as `systemctl enable` makes them."""
        for file in self.files:
            tree.write(file)
        for target, unit in self.enabled:
            tree.link(f"{UNITS}/{target}.wants/{unit}", f"{UNITS}/{unit}")


def part(name: str, path: str, mode: int = 0o644) -> TargetFile:
    """Return a file of this package as it goes to `path` of the installed system."""
    text = resources.files(__package__).joinpath(name).read_text()
    return TargetFile.text(path, text, mode)
