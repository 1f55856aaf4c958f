"""Take apart what stands on disks, top down, without changing what is written there.

Unmount, swapoff, close mappings, stop arrays: by sysfs and not by what LVM or blivet think there
ought to be, because leftovers are often incomplete: a volume group without one of its disks, an
array with one leg.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent.adapters.command import Attempt
from agent.adapters.storage.stack import Kernel, node
from agent.errors import CommandError

log = logging.getLogger(__name__)

STOP_TIMEOUT = 120
"""Seconds for one program: stopping an array waits for what it has under way."""


@dataclass(frozen=True)
class Dismantler:
    attempt: Attempt
    kernel: Kernel = field(default_factory=Kernel)

    def take_apart(self, disks: Sequence[str]) -> list[str]:
        """Leave nothing on the disks (kernel names) but their partitions; return what was closed.

        A container and its arrays, or a thin pool and its volumes, hold the same devices, so what
        fails is tried again after the rest as long as something gives way.
        """
        closed: list[str] = []
        while standing := self._standing(disks):
            failures: list[CommandError] = []
            before = len(closed)
            for name in standing:
                try:
                    closed += self._close(name)
                except CommandError as error:
                    log.info("not yet: %s", error)
                    failures.append(error)
            if failures and len(closed) == before:
                raise failures[0]
        return closed

    def _standing(self, disks: Iterable[str]) -> list[str]:
        """Return, in the order of taking apart, what is mounted, used or stacked on the disks."""
        found: list[str] = []
        for disk in disks:
            for name in (*self.kernel.above(disk), disk):
                stacked = self.kernel.attribute(name, "partition") is None and name != disk
                used = stacked or self.kernel.mounts(name) or self.kernel.swaps(name)
                if used and name not in found:
                    found.append(name)
        return found

    def _close(self, name: str) -> list[str]:
        """Close one device, bottom layers excepted; say what was done."""
        closed = []
        for mount in reversed(self.kernel.mounts(name)):
            self._do("umount", str(mount))
            closed.append(f"mount {mount}")
        if self.kernel.swaps(name):
            self._do("swapoff", str(node(name)))
            closed.append(f"swap {node(name)}")
        mapping = self.kernel.attribute(name, "dm/name")
        if mapping is not None:
            self._do(*_unmap(mapping, self.kernel.attribute(name, "dm/uuid") or ""))
            closed.append(f"mapping {mapping}")
        elif (self.kernel.block(name) / "md").is_dir():
            self._do("mdadm", "--stop", str(node(name)))
            closed.append(f"array {name}")
        return closed

    def _do(self, *argv: str) -> None:
        done = self.attempt(*argv, timeout=STOP_TIMEOUT)
        if done.status:
            raise CommandError(done.argv, f"exited with status {done.status}", done.stderr)


def _unmap(mapping: str, uuid: str) -> tuple[str, ...]:
    # cryptsetup also drops the volume key from the kernel's keyring; LVM's own tools would want
    # the whole volume group to be there, device-mapper does not.
    if uuid.startswith("CRYPT-"):
        return ("cryptsetup", "close", mapping)
    return ("dmsetup", "remove", "--retry", mapping)
