"""The boot medium of the operator: found by its label, mounted read-only for the whole run.

Only a medium that cannot be a target counts: the one that was booted from, and CDs and USB disks.
An internal disk that was such a medium once still has the label, and is never looked into.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyudev

from agent.adapters.command import Run
from agent.errors import CommandError, MachineError, Problem
from agent.media.names import LABEL
from agent.policy import Policy

log = logging.getLogger(__name__)

Properties = Mapping[str, str]
# Where systemd-stub(7) and systemd-boot(7) say from which partition the firmware started them.
LOADER = Path("/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
_PAUSE = 0.5


def block_devices() -> list[Properties]:
    """Return what udev knows of every block device."""
    return [dict(device.properties) for device in pyudev.Context().list_devices(subsystem="block")]


@dataclass
class Medium:
    """A medium labelled BEDPLATE, mounted at `place` once `attach` has found one.

    `fault` says why one that is there cannot be used.
    """

    run: Run
    place: Path
    devices: Callable[[], Iterable[Properties]] = block_devices
    loader: Path = LOADER
    source: str | None = field(default=None, init=False)
    """The device that is mounted."""
    fault: MachineError | None = field(default=None, init=False)

    def attach(self, patience: float = 0) -> None:
        """Look for it, for `patience` seconds: USB disks come late; mount it where there is one."""
        deadline = time.monotonic() + patience
        while not (found := self._candidates()) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        try:
            device = _the_one(found)
            if device is not None:
                self._mount(device)
                self.source = device
                log.info("medium %s: %s is mounted at %s", LABEL, device, self.place)
        except MachineError as error:
            self.fault = error
        except (CommandError, OSError) as error:
            self.fault = MachineError([Problem(f"medium {LABEL}", str(error))])
        if self.fault is not None:
            log.warning("%s", self.fault)

    def _mount(self, device: str) -> None:
        if self.place.is_mount():  # the agent was started again
            self.run("umount", self.place)
        self.place.mkdir(parents=True, exist_ok=True)
        self.run("mount", "-o", "ro,nodev,nosuid,noexec", device, self.place)

    def _candidates(self) -> list[_Candidate]:
        """Return one device of each medium; on a stick with an ISO, disk and partition have it."""
        known = list(self.devices())
        booted = self._booted_from(known)
        found: dict[str, _Candidate] = {}
        for properties in known:
            disk = _disk(properties)
            is_booted = disk == booted
            if properties.get("ID_FS_LABEL") != LABEL or not (is_booted or detachable(properties)):
                continue
            found.setdefault(disk, _Candidate(properties["DEVNAME"], is_booted))
        return list(found.values())

    def _booted_from(self, known: Sequence[Properties]) -> str | None:
        try:
            raw = self.loader.read_bytes()
        except OSError:
            return None
        uuid = raw[4:].decode("utf-16-le", errors="replace").rstrip("\0").lower()
        disks = (_disk(each) for each in known if each.get("ID_PART_ENTRY_UUID") == uuid)
        return next(disks, None)


@dataclass(frozen=True)
class _Candidate:
    device: str
    booted: bool


def trusted_files(baked: Path, brought: Path, pattern: str, policy: Policy) -> list[Path]:
    """Return the keys or authorities of the live image, and those of the operator's medium.

    None from a medium where plans must be signed: what decides whom to believe was decided when
    this image was built, and a stick that anybody can put in has no say in it.
    """
    found = sorted(baked.glob(pattern))
    return found if policy.require_signed_plan else found + sorted(brought.glob(pattern))


def detachable(properties: Properties) -> bool:
    """Tell whether a device is a CD or hangs on USB, by what udev knows of it."""
    return (
        properties.get("ID_CDROM") == "1"
        or properties.get("ID_BUS") == "usb"
        or properties.get("ID_DRIVE_THUMB") == "1"
        or "/usb" in properties.get("DEVPATH", "")
    )


def _disk(properties: Properties) -> str:
    """Return the number of the whole disk that a device is, or lies on."""
    own = f"{properties.get('MAJOR')}:{properties.get('MINOR')}"
    return properties.get("ID_PART_ENTRY_DISK", own)


def _the_one(found: Sequence[_Candidate]) -> str | None:
    booted = [each for each in found if each.booted]
    chosen = booted or found
    if len(chosen) > 1:
        names = ", ".join(sorted(each.device for each in chosen))
        message = f"{len(chosen)} are there ({names}): take all out but one"
        raise MachineError([Problem(f"medium {LABEL}", message)])
    return chosen[0].device if chosen else None
