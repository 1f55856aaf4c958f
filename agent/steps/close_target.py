"""Let go of the target: everything written, unmounted, closed, the mirrors free to resync."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.errors import LeftOpenError, StepError
from agent.machine import Machine, Progress
from agent.steps.base import Evidence


@dataclass(frozen=True)
class CloseTarget:
    root: Path
    name: str = "close-target"

    def describe(self) -> str:
        return f"Unmount {self.root} and close the volumes, the encryption and the mirrors"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        try:
            mirrors = machine.kernel.mirrors()
            machine.mounts.detach(self.root)
            # A frozen array would be stopped just as well; this way what is missing is on record.
            machine.kernel.resume_resync()
            machine.storage.release()
        except StepError as error:
            raise LeftOpenError(str(error)) from error
        return {
            "mirrors": [{"name": m.name, "members": m.members, "active": m.active} for m in mirrors]
        }
