"""Machines that are installed with Secure Boot on, and what their starts say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qemu.facts import Facts, facts
from qemu.hardware import Chassis, Hardware
from qemu.machine import Machine
from qemu.site import Site
from tests.boot.media import BOOT
from tests.machine.conftest import DISKS

FRESH = Chassis(disks=DISKS, secure_boot=True)
"""Firmware that verifies, without keys: in setup mode."""
INSTALL = 1800.0


@dataclass(frozen=True)
class Trust:
    """What a running system says of how it was started."""

    secure_boot: bool
    """The firmware's variable of this name (UEFI 2.10, section 3.3)."""
    lockdown: str
    pcr7: str
    kernel: str

    @classmethod
    def said(cls, ask: Callable[[str], str]) -> Trust:
        variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
        answers = ask(
            f"od -An -tu1 -j4 {variable} && cat /sys/kernel/security/lockdown && "
            "cat /sys/class/tpm/tpm0/pcr-sha256/7 && { dmesg | grep -i 'secure boot' || true; }"
        )
        secure_boot, lockdown, pcr7, *kernel = answers.strip().splitlines()
        return cls(secure_boot.strip() == "1", lockdown, pcr7, "\n".join(kernel))


@dataclass(frozen=True)
class Start:
    """One start of an installed machine, from power-on to power-off, with nobody at its console."""

    trust: Trust
    facts: Facts
    asked: int
    """How often Tang gave its share before anybody logged in."""


@dataclass(frozen=True)
class Sealed:
    """A machine that was installed with Secure Boot on, and started twice."""

    hardware: Hardware
    plan: dict[str, Any]
    live: Trust
    first: Start
    second: Start

    @property
    def config(self) -> dict[str, Any]:
        """What binds the volume, as the header shows it after the second start."""
        (config,) = self.second.facts.bindings().values()
        return config


def started(site: Site, hardware: Hardware, name: str, *, seals: bool) -> Start:
    """Start a machine from its disks; nothing is typed, so they open by themselves or not at all.

    `seals` waits until the first boot has bound the volume to PCR 7.
    """
    before = site.tang.recoveries()
    with site.lab.booted(hardware.machine(name), until="login:", timeout=BOOT) as vm:
        asked = site.tang.recoveries() - before
        if seals:
            there = "until [ -e /var/lib/bedplate/sealed.json ]; do sleep 1; done"
            vm.ssh.run(there, timeout=BOOT)
        vm.ssh.run("systemctl is-system-running --wait", timeout=BOOT, check=False)
        trust = Trust.said(lambda line: vm.ssh.run(line).stdout)
        found = Start(trust, facts(vm), asked)
        vm.poweroff()
    return found


def installed(site: Site, machine: Machine) -> Trust:
    """Let a live system carry out its plan; return what it said of its own start."""
    with site.lab.booted(machine, until=lambda vm: vm.ssh.wait(BOOT)) as vm:
        live = Trust.said(lambda line: vm.ssh.run(line).stdout)
        vm.wait_for(r"(?<!NOT )INSTALLED: ", INSTALL, unless="NOT INSTALLED")
        vm.wait_exit(300)
    return live
