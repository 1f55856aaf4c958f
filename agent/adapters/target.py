"""Run programs inside the installed tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.adapters.command import Run

# The binds live in a mount namespace of their own: when the program ends they are gone, and
# nothing keeps the tree busy (unshare(1), mount_namespaces(7)).
_ENTER = """
root=$1; shift
for place in dev proc sys run; do mount --rbind "/$place" "$root/$place"; done
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class ChrootTarget:
    """The `Target` port."""

    execute: Run

    def run(self, root: Path, *argv: str, timeout: float = 600) -> str:
        """Return the program's stdout; raise `CommandError` unless it exits 0."""
        return self.execute(
            "unshare", "--mount", "--propagation", "slave", "sh", "-euc", _ENTER, "sh", root, *argv,
            timeout=timeout,
        )  # fmt: skip
