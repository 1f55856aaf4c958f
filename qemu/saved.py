"""A running machine written to disk, to be continued any number of times within a second.

Made for cases that all begin alike, such as plans that a booted live system refuses: boot once,
save, and resume per case. Leave the machine's disks out and plug them in after resuming: then
every case can have its own, NVMe among them (QEMU cannot save a machine with one).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from qemu import disk
from qemu.machine import Machine
from qemu.vm import Vm


@dataclass(frozen=True)
class Saved:
    """The state of a machine at one moment, with its files at that moment."""

    machine: Machine
    state: Path

    @classmethod
    def of(cls, vm: Vm, state: Path) -> Saved:
        """Save a running machine and end it; its own files must not be used otherwise any more."""
        state.parent.mkdir(parents=True, exist_ok=True)
        vm.freeze(state)
        return cls(vm.machine, state)

    def machine_for(self, name: str, directory: Path) -> Machine:
        """Return a machine that goes on from there, with branches of the files in `directory`.

        After switching it on the guest's clock stands in the past: `Vm.set_clock`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        then = self.machine
        return dataclasses.replace(
            then,
            name=name,
            resume=self.state,
            variables=disk.branch(directory / "variables.qcow2", then.variables),
            drives=tuple(
                dataclasses.replace(
                    each, file=disk.branch(directory / f"{each.name}.qcow2", each.file)
                )
                for each in then.drives
            ),
            tpm=then.tpm.copy(directory / "tpm") if then.tpm else None,
        )
