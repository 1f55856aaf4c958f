"""`make demo`: install a machine, start it from its disks, and show the proof from inside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from qemu.disk import GiB, MiB
from qemu.facts import Facts, facts, pins
from qemu.hardware import PAIR, Chassis
from qemu.lab import Lab
from qemu.program import repository
from qemu.site import Site
from qemu.vm import Vm

INSTALL = 1500.0
BOOT = 900.0
MEMORY = 1536 * MiB


@dataclass
class Clock:
    """Wall time of each part of the demo."""

    console: Console
    parts: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.console.print(f"[bold]{name}[/] …", highlight=False)
        began = time.monotonic()
        yield
        self.parts.append((name, time.monotonic() - began))


def demo(console: Console) -> None:
    """Carry out the whole story; raises when any part of it is not so."""
    clock = Clock(console)
    with Lab.fresh(repository() / "build/lab/demo") as lab:
        with clock.part("pack and sign the image, start Tang and the deploy server"):
            site = Site(lab)
        disks = tuple(replace(disk, size=32 * GiB) for disk in PAIR)
        chassis = Chassis(disks=disks, memory=MEMORY)
        hardware = lab.hardware("db01", chassis)
        plan = site.plan(hardware)
        site.publish(plan)
        with clock.part("power on: the live image finds its plan, checks, installs"):
            live = lab.live(hardware, "demo-install", site.cmdline)
            with lab.booted(live) as vm:
                _follow(console, site, plan, vm)
                vm.wait_exit(300)
        asked = site.tang.recoveries()
        again = "power on again, from its own disks: nobody types anything"
        boot = hardware.machine("demo-boot")
        with clock.part(again), lab.booted(boot, until=_login) as vm:
            seconds = vm.seconds
            told = _sealed_facts(vm, console)
            vm.poweroff()
        _proof(console, site, plan, told, asked=site.tang.recoveries() - asked, login=seconds)
    _times(console, site, plan, clock)


def _login(vm: Vm) -> None:
    vm.wait_for(r"login:", BOOT)


def _follow(console: Console, site: Site, plan: dict[str, Any], vm: Vm) -> None:
    """Print the steps as their events come in, until the run is over."""
    shown = 0
    deadline = time.monotonic() + INSTALL
    while time.monotonic() < deadline:
        vm.check()
        events = [e for e in site.events(plan) if e["state"] != "progress"]
        for event in events[shown:]:
            if event["step"] == "install" and event["state"] in ("finished", "failed"):
                if event["state"] == "failed":
                    raise SystemExit(f"the installation failed: {event['message']}")
                return
            if event["state"] == "started" and event["step"] != "install":
                console.print(f"  {vm.seconds:6.0f} s  {event['message']}", highlight=False)
        shown = len(events)
        time.sleep(1)
    raise SystemExit(f"the installation did not end in {INSTALL:.0f} s")


def _sealed_facts(vm: Vm, console: Console) -> Facts:
    """Wait until the first boot has sealed the TPM, then ask the machine everything."""
    console.print(f"  {vm.seconds:6.0f} s  login prompt; waiting for the TPM to be sealed")
    vm.ssh.run("until [ -e /var/lib/bedplate/sealed.json ]; do sleep 1; done", timeout=300)
    vm.ssh.run("systemctl is-system-running --wait", timeout=300, check=False)
    return facts(vm)


def _proof(
    console: Console, site: Site, plan: dict[str, Any], told: Facts, *, asked: int, login: float
) -> None:
    console.rule("taken from inside the installed system")
    console.print(f"system state     {told.state}, login prompt {login:.0f} s after power-on")
    unlock = told.unlock_seconds()
    console.print(f"unlock           {unlock} s in the initrd, Tang was asked {asked} times")
    for slot, config in told.bindings().items():
        parts = ", ".join(_pin(pin, header) for pin, header in pins(config))
        console.print(f"keyslot {slot}        clevis sss, t={config['sss']['t']}: {parts}")
    console.print(f"keyslots         {told.keyslots()} (1 is the recovery key, in escrow)")
    key = site.escrow.open(site.envelope(plan))
    console.print(
        f"escrow           opened with openssl: keyslot {key['keyslot']}, {key['hostname']}"
    )
    mounts = Table("mount", "device", "type", "options", title="mounts", title_justify="left")
    live, fstab = told.mounts(), told.fstab()
    for mount in sorted(fstab):
        if mount in live:
            found = live[mount]
            mounts.add_row(mount, found["source"], found["fstype"], found["options"])
    console.print(mounts)
    console.print(told.said["tree"].rstrip(), highlight=False)
    console.print(told.said["mdstat"].rstrip(), highlight=False)
    if told.state != "running" or not asked or sorted(told.bindings()) != [3]:
        raise SystemExit("the proof is incomplete: see above")


def _pin(pin: str, header: Mapping[str, Any]) -> str:
    return f"{pin} {header.get('url', '')}" if pin == "tang" else f"{pin} PCR {header['pcr_ids']}"


def _times(console: Console, site: Site, plan: dict[str, Any], clock: Clock) -> None:
    table = Table("step", "seconds", title="where the time went", title_justify="left")
    for event in site.events(plan):
        if event["state"] == "finished" and "seconds" in event["evidence"]:
            table.add_row(event["step"], f"{event['evidence']['seconds']:.1f}")
    console.print(table)
    for name, seconds in clock.parts:
        console.print(f"{seconds:7.0f} s  {name}", highlight=False)
