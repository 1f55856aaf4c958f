"""Machines of libvirt's, through sushy-emulator's libvirt driver, as OpenStack tests with it.

Nothing of the rig starts these machines: the BMC uploads the image to libvirt, changes the domain
and switches it. The libvirtd is the test's own (qemu/libvirt.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from qemu.disk import GiB
from qemu.hardware import Chassis, Disk
from qemu.lab import Lab
from qemu.libvirt import Libvirt, libvirt
from qemu.live import LiveImage
from qemu.machine import Identity
from qemu.program import repository
from qemu.redfish import Setting, emulator
from qemu.site import Site
from qemu.turn import one_at_a_time
from tests.boot.by_bmc import command, install, wait_until
from tests.boot.media import BOOT, personal

pytestmark = pytest.mark.libvirt

CHASSIS = Chassis(
    disks=(
        Disk("d0", "virtio", 32 * GiB, "BPLIBV0"),
        Disk("d1", "sata", 32 * GiB, "BPLIBV1"),
    ),
    # The emulator's flake (EmulationFlakeError) takes two processors, and nobody here boots again.
    cpus=1,
)
OTHER = replace(
    CHASSIS,
    mac="52:54:00:12:34:57",
    identity=Identity("BP0002", "0e0bd0f2-5f5b-4b2c-9c5f-0d1f6a3e7c02"),
)
STARTS = re.compile(r'BdsDxe: starting Boot\w+ "([^"]*)"')
"""The firmware's word on what it boots, on the serial line."""


@dataclass(frozen=True)
class Bmc:
    """An emulated BMC of two machines: db01 with two blank disks, and idle."""

    host: Libvirt
    url: str
    setting: Setting
    site: Site
    console: Path
    """What db01 has shown on its serial line, at all its power-ons."""

    def started(self) -> list[str]:
        return STARTS.findall(self.shown())

    def shown(self) -> str:
        return self.console.read_text(errors="replace")


@pytest.fixture(scope="module")
def bmc(directory: Path) -> Iterator[Bmc]:
    with Lab.fresh(directory / "libvirt") as lab, libvirt(lab.directory / "host") as host:
        console = host.define(lab.hardware("db01", CHASSIS), "db01")
        host.define(lab.hardware("idle", OTHER), "idle")
        setting = Setting(driver=host.driver())
        with emulator(lab.directory / "emulator", setting) as url:
            yield Bmc(host, url, setting, Site(lab), console)


@pytest.fixture
def turn() -> Iterator[None]:
    with one_at_a_time(repository() / "build/vm/.lock", "libvirt"):
        yield


def test_a_rig_that_is_killed_leaves_no_libvirtd_behind(tmp_path: Path) -> None:
    wait = (
        "import sys, time; from pathlib import Path; from qemu.libvirt import libvirt\n"
        "with libvirt(Path(sys.argv[1])): print('up', flush=True); time.sleep(600)"
    )
    argv = [sys.executable, "-c", wait, str(tmp_path)]
    with (
        tempfile.TemporaryDirectory() as sockets,
        subprocess.Popen(
            argv, stdout=subprocess.PIPE, cwd=repository(), env={**os.environ, "TMPDIR": sockets}
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert _running("libvirtd", tmp_path)
        process.kill()
    assert wait_until(lambda: not _running("libvirtd", tmp_path), 30)


def _running(program: str, directory: Path) -> list[str]:
    """Return the command lines of a program that name this directory."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if line.startswith(program) and str(directory) in line]


def test_a_wrong_password_is_said_and_changes_no_machine(bmc: Bmc) -> None:
    before = bmc.host.definition("db01")
    wrong = replace(bmc.setting, password="canary")
    done = command(
        "install", bmc.url, wrong, "--system", "db01", "--iso", "http://127.0.0.1:1/live.iso"
    )
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert "refuses admin: wrong name or password" in done.stderr
    assert "canary" not in done.stderr
    assert (bmc.host.definition("db01"), bmc.host.is_on("db01")) == (before, False)


@pytest.mark.usefixtures("turn")
def test_a_machine_that_never_calls_back_is_given_up_and_left_without_its_image(
    bmc: Bmc, tmp_path: Path
) -> None:
    order = bmc.site.publish(bmc.site.plan(bmc.site.lab.open("idle")))
    image = tmp_path / "nothing.iso"
    image.write_bytes(bytes(4 << 20))
    done = install(
        bmc.url, bmc.setting, image, bmc.site, order, "--system", "idle", "--callback-timeout", "15"
    )
    try:
        assert (done.returncode, done.stdout) == (5, ""), done.stderr
        assert "nothing was heard of it" in done.stderr
        assert "4.2 MB of the image (4.2 MB) were fetched" in done.stderr
        assert "is taken out" in done.stderr
        assert "device='cdrom'" not in bmc.host.definition("idle")
        shown = command("status", bmc.url, bmc.setting, "--system", "idle").stdout
        assert "power on" in shown
    finally:
        bmc.host.cut("idle")


@pytest.mark.usefixtures("turn")
def test_a_machine_becomes_mirrored_and_encrypted_by_virtual_media_and_unlocks_itself(
    bmc: Bmc, rig: LiveImage
) -> None:
    site = bmc.site
    wanted = site.plan(site.lab.open("db01"))
    order = site.publish(wanted)
    iso = personal(site.lab, rig.directory / "bedplate.iso", "host.iso", "--plan", order,
                   "--cmdline", "no_timer_check")  # fmt: skip
    done = install(
        bmc.url, bmc.setting, iso, site, order, "--system", "db01", "--callback-timeout", "3600"
    )
    assert (done.returncode, done.stdout) == (0, "installed\n"), done.stderr
    assert "is taken out" in done.stderr
    assert "boots its disk" in done.stderr
    assert "device='cdrom'" not in bmc.host.definition("db01")
    proofs = site.report(wanted)["report"]["proofs"]
    assert (proofs["prove-unlock"]["unlock"], proofs["prove-unlock"]["recovery"]) == (
        "proven",
        "proven",
    )
    # It comes up by itself, with both halves of its key, and then seals to its PCRs.
    assert wait_until(lambda: "db01 login:" in bmc.shown(), BOOT), bmc.shown()[-2000:]
    assert wait_until(lambda: _sealed(site, wanted), BOOT), bmc.shown()[-2000:]
    from_cd, *from_disk = bmc.started()
    assert "DVD-ROM" in from_cd
    assert from_disk
    assert not [each for each in from_disk if "DVD-ROM" in each]
    bmc.host.cut("db01")


def _sealed(site: Site, wanted: dict[str, object]) -> bool:
    told = [event for event in site.events(wanted) if event["step"] == "seal"]
    return bool(told) and told[-1]["state"] == "finished" and told[-1]["evidence"]["pcrs"] == [7]
