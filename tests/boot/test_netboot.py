"""Booting from the network: PXE by shim and GRUB, iPXE, UEFI HTTP; static, VLAN and IPv6-only.

Each ends where the agent has found its plan and judged it (the plan is for another machine); one,
by iPXE, ends in a machine that was installed and starts from its disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qemu.disk import GiB
from qemu.hardware import Chassis, Disk, Hardware
from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.machine import Machine, Nic
from qemu.netboot import HERE4, HERE6, Segment, segment, unpacked
from qemu.server import PLAN_KEY
from qemu.site import Site
from tests.boot.media import BOOT, FOUND, REACH_IN, plan, seen, text

INSTALL = 1800.0
CONSOLE = f"console=tty0 console=ttyS0,115200 systemd.gpt_auto=no noresume {REACH_IN}"
MAC = Chassis().mac
GRUB = ("grub-efi-amd64-signed", "shim-signed")
NO_PXE = tuple(
    word
    for version in ("4", "6")
    for word in ("-fw_cfg", f"name=opt/org.tianocore/IPv{version}PXESupport,string=n")
)
"""The firmware tries PXE before HTTP, for more than a minute, and nobody here answers it."""


@pytest.fixture
def lab(directory: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab.fresh(directory / request.node.name[:40]) as lab:
        yield lab


@pytest.fixture
def site(lab: Lab) -> Site:
    return Site(lab)


def publish(site: Site, content: dict[str, Any]) -> None:
    site.publish({**content, "report": [{"type": "http", "url": f"{site.server.url}/v1/events"}]})


def bare(lab: Lab, name: str, memory: int = 2048) -> Hardware:
    disk = Disk("d0", "virtio", 24 * GiB, "BPNET0")
    return lab.hardware(name, Chassis(disks=(disk,), tpm=False, memory=memory * 2**20))


def on_the_network(hardware: Hardware, name: str, nic: Nic, *more: str) -> Machine:
    machine = hardware.machine(name, on_reboot="exit")
    return replace(machine, nics=(nic,), options=more)


def tftp(lab: Lab, image: LiveImage, cmdline: str) -> Path:
    """Lay out a TFTP server's directory as for Foreman: shim, GRUB, its menu, kernel and initrd."""
    place = lab.directory / "tftp"
    shutil.rmtree(place, ignore_errors=True)
    (place / "grub").mkdir(parents=True)
    (place / "boot").mkdir()
    signed = unpacked(GRUB)
    shutil.copy(signed / "usr/lib/shim/shimx64.efi.signed", place / "shimx64.efi")
    grub = signed / "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"
    shutil.copy(grub, place / "grubx64.efi")
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(image.directory / name, place / "boot" / name)
    (place / "grub/grub.cfg").write_text(
        "set default=0\nset timeout=0\nmenuentry 'Bedplate' {\n"
        f"  linux /boot/vmlinuz {cmdline} BOOTIF=01-$net_default_mac\n"
        "  initrd /boot/initrd.img\n}\n"
    )
    return place


def test_pxe_by_shim_and_grub_over_tftp_finds_its_plan(
    lab: Lab, rig: LiveImage, site: Site
) -> None:
    publish(site, plan(lab, machine={"mac": MAC, "serial": "SOMEBODY-ELSE"}))
    place = tftp(lab, rig, f"{CONSOLE} bedplate.plan={site.server.url}/v1/plans/lab01.example.com")
    nic = Nic(MAC, bootindex=0, tftp=place, bootfile="shimx64.efi")
    machine = on_the_network(bare(lab, "pxe"), "pxe", nic)
    with lab.booted(machine, until=FOUND, timeout=BOOT) as vm:
        here = seen(vm)
        assert here.plan_from.startswith(site.server.url)
        assert f"BOOTIF=01-{MAC}" in here.cmdline
        networks = vm.shell.run("networkctl list --no-legend; ls /run/systemd/network").text
        assert "65-boot.network" in networks
        assert "configured" in networks
        route = vm.shell.run("ip route show default").text
        assert "metric 512" in route


def ipxe_script(site: Site, image: LiveImage, cmdline: str) -> str:
    """Put kernel, initrd and a script where the deploy server serves them; return its URL."""
    images = site.server.directory / "images"
    for name in ("vmlinuz", "initrd.img", "bedplate.efi"):
        (images / name).unlink(missing_ok=True)
        shutil.copy(image.directory / name, images / name)
    base = f"{site.server.url}/images"
    (images / "boot.ipxe").write_text(
        f"#!ipxe\nkernel {base}/vmlinuz initrd=initrd.img {cmdline} "
        "BOOTIF=01-${net0/mac:hexhyp}\n"
        f"initrd --name initrd.img {base}/initrd.img\nboot\n"
    )
    return f"{base}/boot.ipxe"


def test_ipxe_over_http_installs_a_machine_that_then_starts_from_its_disk(
    lab: Lab, rig: LiveImage, site: Site
) -> None:
    hardware = bare(lab, "ipxe")
    wanted = plan(lab, machine={"mac": MAC}, image={"manifest": site.offer(site.packed)})
    publish(site, wanted)
    script = ipxe_script(site, rig, f"{CONSOLE} bedplate.server={site.server.url}")
    nic = Nic(MAC, bootindex=0, bootfile=script)
    machine = with_rom(on_the_network(hardware, "ipxe", nic), "/usr/lib/ipxe/qemu/efi-virtio.rom")
    with lab.booted(machine, until=FOUND, timeout=INSTALL) as vm:
        vm.wait_for(r"(?<!NOT )INSTALLED: ", 10, unless=r"NOT INSTALLED")
        vm.wait_exit(300)
    report = site.report(wanted)["report"]
    assert report["state"] == "installed"
    with lab.booted(hardware.machine("ipxe-first-boot"), until="login:", timeout=BOOT) as vm:
        assert vm.ssh.run("cat /etc/hostname").stdout.strip() == "lab01.example.com"


def with_rom(machine: Machine, rom: str) -> Machine:
    """Give the card iPXE's own firmware, in the place of OVMF's driver for it."""
    (nic,) = machine.nics
    backend = f"user,id=rom,hostfwd=tcp:127.0.0.1:0-:22,bootfile={nic.bootfile}"
    card = f"virtio-net-pci,netdev=rom,mac={nic.mac},bootindex=0,romfile={rom}"
    return replace(machine, nics=(), options=("-netdev", backend, "-device", card))


# -- a segment with a DHCP server of its own -----------------------------------------------------


@pytest.fixture
def alone(lab: Lab) -> Iterator[Segment]:
    with segment(lab.directory / "segment") as made:
        yield made


def served(lab: Lab, image: LiveImage) -> Path:
    """Return what a deploy server in a segment serves: one plan, and the live image."""
    place = lab.directory / "alone"
    shutil.rmtree(place, ignore_errors=True)
    (place / "plans").mkdir(parents=True)
    (place / "images").mkdir()
    (place / "plans/lab01.yaml").write_bytes(text(plan(lab)))
    shutil.copy(image.uki, place / "images/bedplate.efi")
    return place


def in_a_segment(hardware: Hardware, name: str, alone: Segment, *more: str, boot: bool) -> Machine:
    machine = hardware.machine(name, on_reboot="exit")
    return replace(machine, nics=(), options=(*alone.options(MAC, boot=boot), *more))


def test_uefi_http_boot_of_the_unified_image_finds_its_plan(
    lab: Lab, rig: LiveImage, alone: Segment
) -> None:
    url = alone.serve(served(lab, rig), HERE4, PLAN_KEY)
    alone.dnsmasq(
        "dhcp-range=192.168.77.50,192.168.77.99,255.255.255.0,1h",
        "dhcp-vendorclass=set:http,HTTPClient:Arch:00016",
        "dhcp-option-force=tag:http,60,HTTPClient",
        f'dhcp-boot=tag:http,"{url}/images/bedplate.efi"',
    )
    machine = in_a_segment(bare(lab, "http"), "http", alone, *NO_PXE, boot=True)
    # The unified image has its own command line: the stub adds what SMBIOS says.
    extra = f"{REACH_IN} bedplate.plan={url}/v1/plans/lab01"
    machine = replace(machine, strings=(f"io.systemd.stub.kernel-cmdline-extra={extra}",))
    with lab.booted(machine, until=FOUND, timeout=BOOT) as vm:
        assert "URI: http://" in vm.console.text
        assert seen(vm).plan_from.startswith(url)


def directly(hardware: Hardware, name: str, image: LiveImage, alone: Segment, line: str) -> Machine:
    machine = hardware.machine(name, image.kernel(line), on_reboot="exit")
    return replace(machine, nics=(), options=alone.options(MAC, boot=False))


def test_a_network_of_ipv6_alone_is_enough(lab: Lab, rig: LiveImage) -> None:
    with segment(lab.directory / "segment", four=False, six=True) as alone:
        url = alone.serve(served(lab, rig), HERE6, PLAN_KEY)
        alone.dnsmasq("enable-ra", "dhcp-range=fd00:77::,ra-only,64,1h")
        line = f"bedplate.plan={url}/v1/plans/lab01"
        machine = directly(bare(lab, "six"), "six", rig, alone, line)
        with lab.booted(machine, until=FOUND, timeout=BOOT) as vm:
            assert seen(vm).plan_from.startswith(url)
            assert vm.shell.run("ip -4 address show scope global").text.strip() == ""


def test_a_static_address_on_a_bond_finds_its_plan_and_what_is_wrong_is_said(
    lab: Lab, rig: LiveImage, alone: Segment
) -> None:
    url = alone.serve(served(lab, rig), HERE4, PLAN_KEY)
    line = (
        f"ifname=boot0:{MAC} bond=bond0:boot0:mode=active-backup vlan=bond0.0010:bond0 "
        f"ip=192.168.77.5::{HERE4}:24:x:bond0:none ip=192.168.78.5:::24:x:bond0.0010:none "
        f"ip=wrong bedplate.plan={url}/v1/plans/lab01"
    )
    machine = directly(bare(lab, "bond"), "bond", rig, alone, line)
    with lab.booted(machine, until=FOUND, timeout=BOOT) as vm:
        assert "bedplate: kernel command line: ip=wrong: wrong: must be one of" in vm.console.text
        assert seen(vm).plan_from.startswith(url)
        assert "active-backup" in vm.shell.run("cat /proc/net/bonding/bond0").text
        (tagged,) = json.loads(vm.shell.run("ip -json -details address show bond0.0010").text)
        assert tagged["linkinfo"]["info_data"]["id"] == 10
        assert tagged["addr_info"][0]["local"] == "192.168.78.5"


def test_options_that_name_no_card_are_why_no_plan_was_found(
    lab: Lab, rig: LiveImage, alone: Segment
) -> None:
    line = "ip=eth7:dhcp bedplate.plan=ftp://192.0.2.1/plan"  # refused at once, not retried
    machine = directly(bare(lab, "nocard"), "nocard", rig, alone, line)
    with lab.booted(machine, until=r"eth7: there is no such network card", timeout=BOOT) as vm:
        assert MAC in vm.console.text
