"""Install one machine through its BMC: insert, boot from it once, follow, eject, boot the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from agent.errors import MachineError, StepError
from agent.plan.model import Finish
from agent.redfish.following import UnheardError
from agent.redfish.media import Served
from agent.redfish.slot import Slot, shown
from agent.report.event import Event, State
from agent.report.sink import Sink

Say = Callable[[str], object]
Outcome = Literal["started", "installed", "already installed", "powered off"]


class Bmc(Protocol):
    """What is asked of a BMC; `bmc.Bmc` is the real one, whose methods say what they raise."""

    @property
    def system(self) -> str: ...
    def insert(self, url: str) -> Slot: ...
    def eject(self) -> list[str]: ...
    def boot_from_cd_once(self) -> None: ...
    def boot_from_disk(self) -> None: ...
    def start(self) -> str: ...
    def is_on(self) -> bool: ...


class Server(Protocol):
    """What is asked of a deploy server; `following.Server` is the real one."""

    def finish(self) -> Finish: ...
    def start_listening(self) -> None: ...
    def news(self) -> list[Event]: ...


@dataclass(frozen=True)
class Patience:
    """Seconds: until the machine is first heard of, until all is done, between two looks."""

    callback: float = 1200.0
    whole: float = 4 * 3600.0
    look: float = 5.0
    shutdown: float = 300.0
    """From "installed" to the power being off, where the plan says so."""


@dataclass(frozen=True)
class Order:
    """What shall be done with a machine."""

    iso: str
    """URL that the BMC fetches."""
    wait: bool
    server: Server | None = None
    served: Served | None = None
    """Set where this program serves the image itself."""
    stay_off: bool = False
    """Leave off what the plan switches off, and do not boot its disk."""


def install(bmc: Bmc, order: Order, patience: Patience, say: Say, sink: Sink) -> Outcome:
    """Carry out an order; `sink` gets the machine's own events.

    Raises `MachineError` before the machine was started, `StepError` afterwards: by then its disks
    may have been written to. The image is taken out at the end in either case, so that no machine
    keeps booting into it; without `wait` it stays in.
    """
    finish = order.server.finish() if order.server else None
    slot = bmc.insert(order.iso)
    say(f"{shown(order.iso)} is in {slot.name} (of the {slot.where})")
    try:
        bmc.boot_from_cd_once()
        if order.server:
            order.server.start_listening()
        say(f"{bmc.system}: {bmc.start()}, boots from {slot.name} once")
    except MachineError:
        bmc.eject()
        raise
    if not order.wait:
        return "started"
    try:
        outcome = (
            _heard(bmc, order, order.server, patience, say, sink)
            if order.server
            else _switched_off(bmc, order, patience)
        )
    except StepError:
        _clean(bmc, say)
        raise
    _clean(bmc, say)
    if outcome == "powered off" or (outcome == "installed" and finish == "poweroff"):
        _boot_disk(bmc, order, patience, say)
    return outcome


def _heard(
    bmc: Bmc, order: Order, server: Server, patience: Patience, say: Say, sink: Sink
) -> Literal["installed", "already installed"]:
    """Follow the deploy server's events until the run has ended."""
    began, heard, trouble = time.monotonic(), False, ""
    while True:
        try:
            news, trouble = server.news(), ""
        except UnheardError as error:
            news = []
            if not trouble:
                say(f"{error}; asking again")
            trouble = str(error)
        for event in news:
            heard = True
            sink(event)
            if event.is_last:
                return _ended(event)
        on = True if heard else _is_on(bmc)
        waited = time.monotonic() - began
        if not heard and waited > patience.callback:
            raise StepError(_silence(order, waited, trouble, on=on))
        if waited > patience.whole:
            raise StepError(f"machine: not done after {waited:.0f} s, and no longer waited for")
        time.sleep(patience.look)


def _ended(event: Event) -> Literal["installed", "already installed"]:
    if event.state is State.FAILED:
        raise StepError(f"machine: not installed: {event.message}")
    return (
        "already installed" if event.evidence.get("state") == "already installed" else "installed"
    )


def _switched_off(bmc: Bmc, order: Order, patience: Patience) -> Literal["powered off"]:
    """Wait until the machine, once it is on, switches itself off: all a BMC can tell."""
    began, seen_on = time.monotonic(), False
    while True:
        on = _is_on(bmc)
        if seen_on and on is False:
            return "powered off"
        seen_on = seen_on or on is True
        waited = time.monotonic() - began
        if not seen_on and waited > patience.callback:
            raise StepError(f"machine: still off {waited:.0f} s after it was told to power on")
        if waited > patience.whole:
            more = _fetched(order)
            raise StepError(f"machine: still on after {waited:.0f} s, so not done{more}")
        time.sleep(patience.look)


def _is_on(bmc: Bmc) -> bool | None:
    """Return the power state; None where a busy BMC did not say."""
    try:
        return bmc.is_on()
    except MachineError:
        return None


def _silence(order: Order, waited: float, trouble: str, *, on: bool | None) -> str:
    text = f"machine: nothing was heard of it for {waited:.0f} s since it was started"
    if trouble:
        return f"{text}, and the deploy server cannot be asked: {trouble}"
    if on is False:
        return f"{text}; the BMC says that it is off{_fetched(order)}"
    hint = "look at its console: did it boot the image, has it a network, does it reach the server"
    return f"{text}{_fetched(order)}; {hint}"


def _fetched(order: Order) -> str:
    served = order.served
    if served is None:
        return ""
    if not served.requests:
        return "; the BMC never asked for the image"
    return f"; {served.sent / 1e6:.1f} MB of the image ({served.size / 1e6:.1f} MB) were fetched"


def _clean(bmc: Bmc, say: Say) -> None:
    """Take the image out and end the override; a BMC that will not is no reason to fail."""
    try:
        for image in bmc.eject():
            say(f"{shown(image)} is taken out")
        bmc.boot_from_disk()
    except MachineError as error:
        say(f"warning: {error}; take the image out by `bedplate redfish eject`")


def _boot_disk(bmc: Bmc, order: Order, patience: Patience, say: Say) -> None:
    """Wait for the power to go, then switch on: now the disk is what there is to boot."""
    until = time.monotonic() + patience.shutdown
    while _is_on(bmc) is not False:
        if time.monotonic() > until:
            say(f"warning: {bmc.system} is still on {patience.shutdown:.0f} s after the end")
            return
        time.sleep(patience.look)
    if order.stay_off:
        say(f"{bmc.system}: is off")
        return
    say(f"{bmc.system}: {bmc.start()}, boots its disk")
    until = time.monotonic() + patience.shutdown
    while _is_on(bmc) is not True:
        if time.monotonic() > until:
            say(f"warning: {bmc.system} did not come on in {patience.shutdown:.0f} s")
            return
        time.sleep(patience.look)
