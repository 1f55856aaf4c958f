"""End a run: boot the installed system, power off, or stay.

Always an orderly shutdown: the TPM counts power that vanishes after an unseal towards its lockout.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from uuid import UUID

from agent.adapters.command import Run
from agent.errors import StepError
from agent.machine import Firmware

log = logging.getLogger(__name__)

How = Literal["reboot", "poweroff", "stay"]


def finish(
    how: How,
    run: Run,
    firmware: Firmware,
    esps: Sequence[UUID],
    partuuids: Path = Path("/dev/disk/by-partuuid"),
) -> None:
    """Leave the live system as the plan says; `esps` are the PARTUUIDs that can be booted.

    Before a reboot the next boot is set to the installed system: many machines always boot from the
    network first, and would come back here only to be told "already installed". `partuuids` is
    where udev shows the partitions that exist: the entry of a disk that died boots nothing.
    """
    if how == "stay":
        return
    if how == "reboot":
        try:
            _boot_next(firmware, [esp for esp in esps if (partuuids / str(esp)).exists()])
        except StepError as error:
            # Everything is installed and proven; the boot order names the new system first.
            log.warning("the next boot could not be chosen: %s", error)
    run("systemctl", "--no-block", how)


def _boot_next(firmware: Firmware, esps: Sequence[UUID]) -> None:
    """Choose the entry of the first of the ESPs that has one."""
    entries = {entry.partuuid.lower(): entry for entry in firmware.entries() if entry.partuuid}
    for esp in esps:
        entry = entries.get(str(esp))
        if entry is not None:
            firmware.boot_next(entry.number)
            return
    log.warning("no firmware entry boots the installed system; the boot order decides")
