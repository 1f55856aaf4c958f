"""The live image as it was built for the rig, and how it is booted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qemu.errors import RigError
from qemu.machine import Kernel
from qemu.program import repository

CMDLINE = "console=tty0 console=ttyS0,115200 systemd.show_status=yes no_timer_check"
DEBUG = "systemd.debug_shell=ttyS1"
"""Gives `Vm.shell` in the live system."""


@dataclass(frozen=True)
class LiveImage:
    """What `image/build live` writes: the same bits as a UKI, and as kernel with initrd."""

    directory: Path

    @classmethod
    def built(cls, variant: str = "rig") -> LiveImage:
        """Return the built image; `rig` is the variant for virtual machines."""
        found = cls(repository() / "build" / "live" / variant)
        if not found.uki.exists():
            raise RigError(
                f"{found.directory}: not built, run image/build live --variant {variant}"
            )
        return found

    @property
    def uki(self) -> Path:
        return self.directory / "bedplate.efi"

    def kernel(self, cmdline: str = "") -> Kernel:
        """Return it for direct kernel boot: kernel and initrd, consoles, the root shell, `cmdline`.

        Quicker than the UKI, which the firmware loads and measures as one large program.
        """
        line = f"{CMDLINE} {DEBUG} {cmdline}".strip()
        return Kernel(self.directory / "vmlinuz", self.directory / "initrd.img", line)
