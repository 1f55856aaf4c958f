"""Boot media and plans for the tests of booting."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from qemu import ssh
from qemu.hardware import Hardware
from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.machine import Bus, Drive, Machine
from qemu.program import repository, run
from qemu.vm import Vm

FOUND = r"NOT INSTALLED|INSTALLED: "
"""The console's last word on a plan that was found, whichever it is."""
REACH_IN = "systemd.debug_shell=ttyS1 no_timer_check"
"""Kernel options: the root shell on the second serial line, and mercy on a slow emulator."""
STRANGER = "SOMEBODY-ELSE"
BOOT = 900.0


def formed(variant: str, directory: Path, form: str = "forms") -> LiveImage:
    """Return the live image with its ISO and disk image, built where they are missing or old.

    It is kept in `directory` as it is now: a later build replaces the files and not their content.
    `form` may be slim, which adds that one.
    """
    argv: list[str | Path] = [repository() / "image/build", form, "--variant", variant]
    subprocess.run(argv, check=True, timeout=3600)
    kept = directory / f"{form}-{variant}"
    kept.mkdir()
    for built in LiveImage.built(variant).directory.iterdir():
        (kept / built.name).hardlink_to(built)
    return LiveImage(kept)


def plan(lab: Lab, **changes: Any) -> dict[str, Any]:
    """Return a short plan for another machine: found, read, and refused."""
    return {
        "version": 1,
        "id": "0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11",
        "machine": {"serial": STRANGER},
        "hostname": "lab01.example.com",
        "disks": {"count": 1},
        "storage": {"preset": "plain"},
        "image": {"manifest": "https://images.example.com/debian13.json"},
        "configure": {
            "ssh_authorized_keys": {"root": [ssh.public_half(lab.key)]},
            "kernel_options": ["console=tty0", "console=ttyS0,115200", "no_timer_check"],
        },
        "finish": "poweroff",
        **changes,
    }


def text(content: dict[str, Any]) -> bytes:
    return yaml.safe_dump(content, sort_keys=False).encode()


def personal(lab: Lab, source: Path, name: str, *options: str | Path) -> Path:
    """Let `bedplate media` make a medium from `source`; returns it."""
    target = lab.directory / name
    argv = ["-m", "agent", "media", *options, source, target]
    run(repository() / ".venv/bin/python", *argv, timeout=300)
    return target


def with_medium(hardware: Hardware, name: str, medium: Path, bus: Bus, **more: Any) -> Machine:
    """Return a power-on of the machine that starts from this medium; what it writes vanishes."""
    machine = hardware.machine(name, on_reboot="exit", **more)
    drive = Drive(
        "medium", medium, bus, bootindex=0, format="raw",
        readonly=bus == "cdrom", discarded=bus != "cdrom",
    )  # fmt: skip
    return replace(machine, drives=(*machine.drives, drive))


@dataclass(frozen=True)
class Seen:
    """What a live system said of its boot."""

    plan_from: str
    cmdline: str
    kernel_log: str
    mounts: str
    seconds: float
    """From power-on to the agent's word on the plan."""


def seen(vm: Vm) -> Seen:
    """Wait until the plan is found and judged, then look around through the root shell."""
    at = vm.wait_for(FOUND, BOOT).at
    vm.shell.wait()
    events = vm.shell.run("cat /run/bedplate/events.jsonl").text.splitlines()
    evidence = [json.loads(line).get("evidence") or {} for line in events if line.startswith("{")]
    places: Sequence[str] = [each["plan_from"] for each in evidence if "plan_from" in each]
    return Seen(
        plan_from=places[0] if places else "",
        cmdline=vm.shell.run("cat /proc/cmdline").text,
        kernel_log=vm.shell.run("dmesg | grep -i secure", check=False).text,
        mounts=vm.shell.run("findmnt --raw --noheadings /run/bedplate/media", check=False).text,
        seconds=at,
    )
