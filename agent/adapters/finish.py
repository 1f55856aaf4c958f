"""End a run: boot the installed system, power off, or stay.

Always an orderly shutdown: the TPM counts power that vanishes after an unseal towards its lockout.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from agent.adapters.command import Run
from agent.machine import Firmware

log = logging.getLogger(__name__)

How = Literal["reboot", "poweroff", "stay"]


def finish(how: How, run: Run, firmware: Firmware, esps: Sequence[UUID]) -> None:
    """Leave the live system as the plan says; `esps` are the PARTUUIDs that can be booted.

    Before a reboot the next boot is set to the installed system: many machines always boot from the
    network first, and would come back here only to be told "already installed".
    """
    if how == "stay":
        return
    if how == "reboot":
        _boot_next(firmware, esps)
    run("systemctl", "--no-block", how)


def _boot_next(firmware: Firmware, esps: Sequence[UUID]) -> None:
    bootable = {str(esp) for esp in esps}
    for entry in firmware.entries():
        if entry.partuuid is not None and entry.partuuid.lower() in bootable:
            firmware.boot_next(entry.number)
            return
    log.warning("no firmware entry boots the installed system; the boot order decides")
