"""A machine that an unmodified Foreman deploys: one that it knows, and one that it discovers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import yaml

from qemu.hardware import Chassis, Disk, Hardware
from qemu.site import Site
from qemu.tang import HOST_SEEN_BY_GUEST
from qemu.vm import Vm
from tests.adapters.foreman.standin import Discovered, Host, StandIn
from tests.foreman.conftest import Authority
from tests.machine.conftest import BOOT, INSTALL

PORT = 8443
DISK = Disk("d0", "virtio", size=12 << 30, serial="BPFOREMAN")


@dataclass
class Deployment:
    """One machine, the stand-in, and what the machine said while it was installed."""

    site: Site
    authority: Authority
    hardware: Hardware
    ports: list[int] = field(default_factory=list)
    console: str = ""

    def foreman(self, **options: Any) -> StandIn:
        return StandIn(
            certificate=self.authority.pair, seen_as=HOST_SEEN_BY_GUEST, reach=self.reach, **options
        )

    def reach(self, ip: str) -> tuple[str, int] | None:
        """Return where a guest's port 8443 is on this host: QEMU's network has no other way in."""
        return ("127.0.0.1", self.ports[-1]) if self.ports else None

    def host(self) -> Host:
        return Host(mac=self.hardware.chassis.mac, plan=self.plan, ip="10.0.2.15")

    def plan(self, host: Host) -> str:
        """Render the plan as the provision template does."""
        told = self.site.plan(
            self.hardware,
            id=order_id(host.token or ""),
            machine={"mac": host.mac},
            hostname=host.name,
            disks={"count": 1, "where": {"serial": DISK.serial}},
            storage={"preset": "plain"},
            report=[
                *[{"type": "http", "url": f"{self.site.server.url}/v1/events"}],
                {"type": "foreman", "built": host.url("built"), "failed": host.url("failed")},
            ],
        )
        del told["encryption"]
        return yaml.safe_dump(told, sort_keys=False)

    def install(self, name: str, cmdline: str) -> None:
        """Boot the live image and wait until it has switched the machine off."""
        machine = self.site.lab.live(
            self.hardware, name, cmdline, credentials=[("bedplate.ca", self.authority.certificate)]
        )
        nics = tuple(replace(nic, forward=(*nic.forward, PORT)) for nic in machine.nics)

        def up(vm: Vm) -> None:
            self.ports.append(vm.devices.forwarded(PORT))
            vm.wait_for(r"Reached target|login:|find: started", BOOT)

        with self.site.lab.booted(replace(machine, nics=nics), until=up) as vm:
            vm.wait_for(r"(?<!NOT )INSTALLED: ", INSTALL, unless=r"NOT INSTALLED")
            vm.wait_exit(300)
            self.console = vm.console.text

    def events(self, token: str) -> list[dict[str, Any]]:
        return self.site.events({"id": order_id(token)})


def order_id(token: str) -> str:
    """Return the plan's id as the provision template makes it: not the token, which is a secret."""
    return f"{token[:13]}-4000-8000-000000000042"


@pytest.fixture
def deployment(site: Site, authority: Authority) -> Callable[[str, str], Deployment]:
    def make(name: str, mac: str) -> Deployment:
        hardware = site.lab.hardware(name, Chassis(disks=(DISK,), tpm=False, mac=mac))
        return Deployment(site, authority, hardware)

    return make


def test_a_host_that_foreman_knows_is_installed_and_leaves_build_mode(
    deployment: Callable[[str, str], Deployment],
) -> None:
    here = deployment("foreman-known", "52:54:00:f0:00:01")
    with here.foreman() as foreman:
        host = foreman.add(here.host())
        token = host.token or ""
        here.install("foreman-known", f"bedplate.plan={host.url('provision')}")
        assert (host.build, host.builds, host.build_errors) == (False, 1, None)
        fetched = foreman.asked("GET /unattended/provision")
        assert [seen.query for seen in fetched] == [{"token": token}]
    events = here.events(token)
    assert events[-1]["state"] == "finished"
    assert token not in json.dumps(events)
    # The kernel shows its own command line, which is where the boot loader put the token.
    ours = [line for line in here.console.splitlines() if "ommand line: " not in line]
    assert token not in "\n".join(ours)


def test_a_host_that_foreman_does_not_know_is_discovered_and_installed_in_one_boot(
    deployment: Callable[[str, str], Deployment],
) -> None:
    mac = "52:54:00:f0:00:02"
    here = deployment("foreman-unknown", mac)
    made: list[tuple[Host, str]] = []

    def rule(found: Discovered) -> Host:
        made.append((host := here.host(), host.token or ""))
        return host

    def kexec(host: Host) -> dict[str, Any]:
        return {"kernel": "http://x/k", "initram": "http://x/i", "append": "quiet", "extra": [],
                "plan_url": host.url("provision")}  # fmt: skip

    with here.foreman(rule=rule, kexec=kexec) as foreman:
        line = f"proxy.url={foreman.address} proxy.type=foreman BOOTIF=01-{mac.replace(':', '-')}"
        here.install("foreman-unknown", line)
        ((host, token),) = made
        (uploaded,) = foreman.asked("POST /api/v2/discovered_hosts/facts")
        assert foreman.called_back == [("/power/kexec", 200, {"result": True, "message": ""})]
        assert (host.builds, host.build_errors) == (1, None)
        assert {"token": token} in [
            seen.query for seen in foreman.asked("GET /unattended/provision")
        ]
    facts = json.loads(uploaded.body)["facts"]
    assert facts["discovery_bootif"] == mac
    assert facts["blockdevice_vda_size"] == DISK.size
    assert here.events(token)[-1]["state"] == "finished"
