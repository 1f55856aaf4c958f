"""Erase a disk by its own means: NVMe sanitize and format, ATA security erase, discard.

What the disk can is read from what it says of itself (nvme-id-ctrl(1), hdparm(8) -I, sysfs), before
anything is written. NVMe sanitize, and format on many controllers, erase every namespace, so they
are no way where the controller has more than one.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.adapters.command import Attempt, Run, attempt, run
from agent.adapters.storage.erase import discarded
from agent.adapters.storage.stack import Kernel, node
from agent.errors import CommandError, StepError
from agent.inventory.erasure import Way

log = logging.getLogger(__name__)

# NVM Express base specification 2.0, figure 275 (Identify Controller).
_OACS_FORMAT = 1 << 1
_FNA_WHOLE = 0b11  # bit 0: a format changes every namespace; bit 1: a secure erase does
_FNA_CRYPTO = 1 << 2
_SANICAP_CRYPTO, _SANICAP_BLOCK = 1 << 0, 1 << 1
_SANACT = {"crypto erase": 4, "block erase": 2}
_SES = {"crypto erase": 2, "user data erase": 1}
PASSWORD = "bedplate"  # noqa: S105 - ATA erases only a locked disk; this is known and gone with it
POLL = 5.0
LONGEST = 12 * 3600.0
"""Seconds for one disk: what a large spinning disk needs for every block, and a half more."""
_STATE = re.compile(r"\((\d+)\)")
_MINUTES = re.compile(r"(\d+)min for (ENHANCED )?SECURITY ERASE UNIT")


@dataclass(frozen=True)
class SecureEraser:
    """Asks disks (kernel names) what they can, and has them do it."""

    run: Run = run
    attempt: Attempt = attempt
    kernel: Kernel = field(default_factory=Kernel)
    sleep: Callable[[float], None] = time.sleep

    def ways(self, disk: str) -> tuple[Way, ...]:
        """Return every way of this kind of disk, possible or not; reads only."""
        kind = self._nvme if disk.startswith("nvme") else self._ata
        return (*kind(disk), self._discard(disk))

    def erase(self, disk: str, way: Way) -> None:
        """Erase the whole disk; raise `StepError` when it did not do so."""
        match way.method:
            case "nvme-sanitize":
                self._sanitize(disk, way)
            case "nvme-format":
                self.run(
                    *("nvme", "format", node(disk), f"--ses={_SES[way.detail]}", "--force"),
                    *("--timeout", str(int(LONGEST * 1000))),
                    timeout=LONGEST + 60,
                )
            case "ata":
                self._erase_ata(disk, way)
            case "discard":
                if not discarded(self.attempt, node(disk)):
                    raise StepError(f"{node(disk)}: what was discarded does not read zeros")

    # --- NVMe ---

    def _nvme(self, disk: str) -> Iterator[Way]:
        try:
            said = json.loads(self.run("nvme", "id-ctrl", node(disk), "--output-format=json"))
            oacs, fna, sanicap = (int(said.get(key, 0)) for key in ("oacs", "fna", "sanicap"))
        except (CommandError, ValueError, AttributeError) as error:
            yield Way("nvme-sanitize", why_not=f"the controller does not answer: {error}")
            yield Way("nvme-format", why_not=f"the controller does not answer: {error}")
            return
        shared = self._others(disk)
        yield Way("nvme-sanitize", *_sanitize(sanicap, shared))
        yield Way("nvme-format", *_format(oacs, fna, shared))

    def _others(self, disk: str) -> str:
        """Return the other namespaces of the controller or subsystem, for a message."""
        names = (path.name for path in self.kernel.block(disk).resolve().parent.iterdir())
        others = [name for name in names if re.fullmatch(r"nvme\d+n\d+", name) and name != disk]
        return ", ".join(sorted(others))

    def _sanitize(self, disk: str, way: Way) -> None:
        device = node(disk)
        self.run("nvme", "sanitize", device, f"--sanact={_SANACT[way.detail]}", timeout=120)
        waited = 0.0
        while (state := self._sanitize_state(device)) == 2:
            if waited >= LONGEST:
                raise StepError(f"{device}: still sanitizes after {waited:.0f} s")
            self.sleep(POLL)
            waited += POLL
        if state not in (1, 4):  # completed; completed, and everything deallocated
            raise StepError(f"{device}: sanitize ended in state {state}")

    def _sanitize_state(self, device: Path) -> int:
        """Return SSTAT's status: 1 and 4 completed, 2 in progress, 3 failed."""
        text = self.run("nvme", "sanitize-log", device, "--output-format=json")
        said: Any = json.loads(text)
        # {"nvme0": {"sstat": {"status": "(2) Sanitize in Progress."}}}, by nvme-cli's own name.
        for page in (said, *said.values()):
            sstat = page.get("sstat") if isinstance(page, dict) else None
            if isinstance(sstat, dict) and (match := _STATE.search(str(sstat.get("status")))):
                return int(match[1])
        raise StepError(f"{device}: does not say how far its sanitize is")

    # --- ATA ---

    def _ata(self, disk: str) -> Iterator[Way]:
        security = self._security(disk)
        if not security:
            return  # no ATA disk
        words = _lines(security)
        minutes = {bool(match[2]): int(match[1]) for match in _MINUTES.finditer(security)}
        enhanced = "supported: enhanced erase" in words
        yield Way(
            "ata",
            detail="enhanced erase" if enhanced else "erase",
            why_not=_locked_out(words),
            seconds=60 * minutes.get(enhanced, 0),
        )

    def _erase_ata(self, disk: str, way: Way) -> None:
        """Lock the disk with a password that everybody knows, and erase it, which unlocks it."""
        device = node(disk)
        user = ("hdparm", "--user-master", "u")
        erase = "--security-erase-enhanced" if "enhanced" in way.detail else "--security-erase"
        self.run(*user, "--security-set-pass", PASSWORD, device)
        try:
            self.run(*user, erase, PASSWORD, device, timeout=max(LONGEST, 2 * way.seconds))
        except CommandError:
            # A disk that is left locked is a disk that nobody can use.
            self.attempt(*user, "--security-disable", PASSWORD, device)
            raise
        if "not enabled" not in _lines(self._security(disk)):
            raise StepError(f"{device}: is still locked after it was erased")

    def _security(self, disk: str) -> str:
        """Return what hdparm says of the disk's security; nothing for what is no ATA disk."""
        done = self.attempt("hdparm", "-I", node(disk))
        return "" if done.status else done.stdout.partition("\nSecurity:")[2]

    # --- any ---

    def _discard(self, disk: str) -> Way:
        most = int(self.kernel.attribute(disk, "queue/discard_max_bytes") or 0)
        why_not = "" if most else "the disk does not take discards"
        return Way("discard", "every block, and read back as zeros", why_not)


def _sanitize(sanicap: int, shared: str) -> tuple[str, str]:
    """Return (what it does, why not)."""
    detail = "crypto erase" if sanicap & _SANICAP_CRYPTO else "block erase"
    if not sanicap & (_SANICAP_CRYPTO | _SANICAP_BLOCK):
        return "", "the controller does not support it"
    return detail, f"it would erase {shared} too" if shared else ""


def _format(oacs: int, fna: int, shared: str) -> tuple[str, str]:
    if not oacs & _OACS_FORMAT:
        return "", "the controller does not support it"
    detail = "crypto erase" if fna & _FNA_CRYPTO else "user data erase"
    return detail, f"it would erase {shared} too" if shared and fna & _FNA_WHOLE else ""


def _lines(security: str) -> set[str]:
    return {" ".join(line.split()) for line in security.splitlines()}


def _locked_out(words: set[str]) -> str:
    """Return why ATA security cannot be used now, by the words of hdparm -I."""
    if "not supported" in words or "supported" not in words:
        return "the disk does not support it"
    if "not frozen" not in words:
        return (
            "the firmware froze it: unplug and plug in the drive, or suspend and wake the machine"
        )
    if "not locked" not in words:
        return "the disk is locked with a password that is not ours"
    if "not enabled" not in words:
        return "a password is set on the disk: unset it with hdparm --security-disable"
    return ""
