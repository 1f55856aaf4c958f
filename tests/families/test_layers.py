"""A bond, a VLAN on it and overlays: what an initrd must make itself before it asks Tang.

Here and not in `make test`, because the image's initrd does not know this bond, and dracut builds
another under emulation.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from qemu.disk import GiB
from qemu.hardware import PAIR, Chassis
from qemu.program import run
from qemu.site import KEY, Packed, Site
from tests.machine.conftest import install, up

DISK = replace(PAIR[0], size=16 * GiB)
ASK = """\
cat /sys/class/net/bond0/bonding/mode /sys/class/net/bond0/bonding/slaves
cat /sys/class/net/bond0/address
ip -brief address show dev vlan42
cat /etc/layer /etc/layers/group /etc/layers/own
systemctl is-system-running --wait
systemctl --failed --no-legend
"""


@dataclass(frozen=True)
class Started:
    """What a machine said after its first start, and what the steps of its installation did."""

    lines: list[str]
    tang: int
    evidence: dict[str, dict[str, Any]]


def overlay(site: Site, place: Path, name: str, files: dict[str, str]) -> str:
    """Pack a few files as an image; return its address for a machine."""
    tree, directory = place / name, place / "packed"
    for path, text in files.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    run(
        sys.executable, "-m", "agent", "pack", tree, "--name", name, "--key", KEY,
        "--directory", directory, timeout=120,
    )  # fmt: skip
    return site.offer(Packed(directory, name))


@pytest.fixture(scope="module")
def started(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Started:
    place = tmp_path_factory.mktemp("layers")
    hardware = site.lab.hardware("layers", Chassis(disks=(DISK,)))
    bond = {"ports": [{"mac": hardware.chassis.mac}], "mode": "active-backup"}
    group = {"etc/layer": "group\n", "etc/layers/group": "of databases\n"}
    plan = site.plan(
        hardware,
        disks={"count": 1, "where": {"serial": [DISK.serial]}},
        storage={"preset": "plain"},
        overlays=[
            {"manifest": overlay(site, place, "group", group)},
            {
                "manifest": overlay(
                    site, place, "own", {"etc/layer": "own\n", "etc/layers/own": "db01\n"}
                )
            },
        ],
    )
    plan["encryption"]["unlock"] = "tang"
    plan["configure"]["network"] = [
        {"bond": bond, "dhcp": "ipv4"},
        {"bond": bond, "vlan": 42, "addresses": ["192.0.2.7/24"]},
    ]
    install(site, hardware, plan, "layers-install")
    finished = [event for event in site.events(plan) if event["state"] == "finished"]
    before = site.tang.recoveries()
    with site.lab.booted(hardware.machine("layers-boot"), until=up) as vm:
        asked = site.tang.recoveries() - before
        said = vm.ssh.run(ASK, 900, check=False).stdout.splitlines()
        vm.poweroff()
    return Started(said, asked, {event["step"]: event["evidence"] for event in finished})


def test_the_initrd_was_built_anew_because_it_lacked_the_bond(started: Started) -> None:
    said = started.evidence["build-initrd"].values()
    [initrd] = (of_kernel for of_kernel in said if isinstance(of_kernel, dict))
    assert initrd["built"] is True
    assert "lacks the network of the plan: bond0, vlan42" in initrd["because"]


def test_tang_was_asked_through_the_bond_and_nobody_typed_a_key(started: Started) -> None:
    assert started.tang >= 1
    assert started.lines[:3] == ["active-backup 1", started.lines[1], "52:54:00:12:34:56"]
    assert len(started.lines[1].split()) == 1, "its one port"


def test_the_vlan_has_its_address(started: Started) -> None:
    assert started.lines[3].split()[:3] == ["vlan42@bond0", "UP", "192.0.2.7/24"]


def test_the_last_overlay_wins_and_nothing_failed(started: Started) -> None:
    assert started.lines[4:8] == ["own", "of databases", "db01", "running"]
    assert [started.evidence[f"write-overlay-{n}"]["image"] for n in (1, 2)] == ["group", "own"]
