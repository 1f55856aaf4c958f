"""What the running kernel says of its md arrays, and the brake on their resync.

The brake is per array and lies in sysfs, so it is gone with the array: nothing system wide outlives
the run (md(4), "sync_action").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.errors import StepError
from agent.machine import MirrorState


@dataclass(frozen=True)
class KernelKnobs:
    """The `Kernel` port; `sys` and `dev` are elsewhere in tests."""

    sys: Path = Path("/sys")
    dev: Path = Path("/dev")

    def mirrors(self) -> tuple[MirrorState, ...]:
        """Return every running array with redundancy, by the name below /dev/md."""
        names = self._names()
        return tuple(
            MirrorState(
                name=names.get(md.parent.name, md.parent.name),
                members=int((md / "raid_disks").read_text()),
                active=int((md / "raid_disks").read_text()) - int((md / "degraded").read_text()),
                sync=(md / "sync_action").read_text().strip(),
            )
            for md in self._arrays()
        )

    def hold_resync(self) -> None:
        """Freeze the resync of every running array."""
        for md in self._arrays():
            self._act(md, "frozen")

    def resume_resync(self) -> None:
        """Let every frozen array go on; one that has nothing to do returns to idle by itself."""
        for md in self._arrays():
            if (md / "sync_action").read_text().strip() == "frozen":
                self._act(md, "idle")

    def _arrays(self) -> list[Path]:
        # Only levels with redundancy have a sync_action; a container or an inactive array has none.
        return sorted(found.parent for found in self.sys.glob("block/md*/md/sync_action"))

    def _names(self) -> dict[str, str]:
        """Return kernel name -> name, from the links udev and mdadm make in /dev/md."""
        directory = self.dev / "md"
        links = sorted(directory.iterdir()) if directory.is_dir() else []
        return {link.resolve().name: link.name for link in links}

    def _act(self, md: Path, action: str) -> None:
        try:
            (md / "sync_action").write_text(action)
        except OSError as error:
            raise StepError(f"{md.parent.name}: sync_action {action}: {error.strerror}") from error
