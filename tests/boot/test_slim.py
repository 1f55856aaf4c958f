"""The slim form: a small initrd fetches the rest over HTTP and becomes it, by its digest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qemu.hardware import Chassis, Disk, Hardware
from qemu.lab import Lab
from qemu.live import CMDLINE, LiveImage
from qemu.machine import Kernel, Machine
from tests.adapters.crooked import Crooked
from tests.boot.media import formed, plan, seen, text

ONE = Chassis(disks=(Disk("d0", serial="BPVIRT0"),), tpm=False)


@pytest.fixture(scope="module")
def slim(directory: Path) -> LiveImage:
    return formed("rig", directory, "slim")


@pytest.fixture(scope="module")
def server(slim: LiveImage) -> Iterator[Crooked]:
    files = {
        "initrd.img": (slim.directory / "initrd.img").read_bytes(),
        "other.img": (slim.directory / "initrd-slim.img").read_bytes(),
    }
    with Crooked(files) as server:
        yield server


def machine(
    lab: Lab, hardware: Hardware, slim: LiveImage, server: Crooked, name: str, file: str
) -> Machine:
    """Return a boot of kernel and small initrd that fetches `file` from the host."""
    option = (slim.directory / "slim.options").read_text().strip()
    url = f"http://10.0.2.2:{server.port}/{file}"
    line = f"{CMDLINE} systemd.debug_shell=ttyS1 bedplate.rest={url} {option}"
    kernel = Kernel(slim.directory / "vmlinuz", slim.directory / "initrd-slim.img", line)
    given = (lab.login, ("bedplate.plan", text(plan(lab))))
    return hardware.machine(name, kernel, credentials=given)


def test_it_fetches_the_live_image_and_finds_its_plan(
    lab: Lab, slim: LiveImage, server: Crooked
) -> None:
    sizes = [(slim.directory / name).stat().st_size for name in ("vmlinuz", "initrd-slim.img")]
    assert sum(sizes) < 60_000_000
    hardware = lab.hardware("slim", ONE)
    booted = machine(lab, hardware, slim, server, "boot-slim", "initrd.img")
    with lab.booted(booted, until="NOT INSTALLED", timeout=600) as vm:
        assert seen(vm).plan_from == "credential bedplate.plan"
        assert "root / tmpfs " in vm.shell.run("cat /proc/mounts").text


def test_what_has_another_digest_is_not_started(lab: Lab, slim: LiveImage, server: Crooked) -> None:
    hardware = lab.hardware("slim-other", ONE)
    booted = machine(lab, hardware, slim, server, "boot-slim-other", "other.img")
    with lab.power_on(replace(booted, on_reboot="exit")) as vm:
        vm.wait_for("DOWNLOAD INVALID|Checksum|not what the digest", 600, unless="INSTALLED")
