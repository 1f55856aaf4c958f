"""A machine is installed through its BMC, by the operator's command and nothing else.

The BMC is OpenStack's emulator; the machine it switches is one of ours, which boots the very file
that the BMC has fetched. test_libvirt.py is the same with machines of libvirt's.
"""

from __future__ import annotations

from dataclasses import replace

from qemu.disk import GiB
from qemu.hardware import Chassis, Disk
from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.redfish import Setting, State, Switch, emulator, force_off
from qemu.site import Site
from qemu.vm import Vm
from tests.boot.by_bmc import INSTALL, install, wait_until
from tests.boot.media import BOOT, REACH_IN, personal, plan, with_medium


def test_a_machine_is_installed_by_virtual_media_and_starts_from_its_disk(
    lab: Lab, rig: LiveImage
) -> None:
    site = Site(lab)
    hardware = lab.hardware(
        "bmc", Chassis(disks=(Disk("d0", "virtio", 24 * GiB, "BPBMC0"),), tpm=False)
    )
    wanted = plan(
        lab,
        machine={"serial": hardware.chassis.identity.serial},
        image={"manifest": site.offer(site.packed)},
        report=[{"type": "http", "url": f"{site.server.url}/v1/events"}],
    )
    order = site.publish(wanted)
    iso = personal(lab, rig.directory / "bedplate.iso", "host.iso", "--plan", order,
                   "--cmdline", REACH_IN)  # fmt: skip

    def power_on(state: State) -> Vm:
        name = f"redfish-{len(switch.boots)}"
        if state.from_cd and state.image is not None:
            return lab.power_on(with_medium(hardware, name, state.image, "cdrom"))
        return lab.power_on(replace(hardware.machine(name), on_reboot="exit"))

    switch, setting = Switch(power_on), Setting()
    with (
        switch.listening() as notified,
        emulator(lab.directory / "emulator", replace(setting, notify=notified)) as bmc,
    ):
        switch.went_off = lambda: force_off(bmc, setting)
        done = install(bmc, setting, iso, site, order, "--callback-timeout", str(INSTALL))
        assert (done.returncode, done.stdout) == (0, "installed\n"), done.stderr
        first, second = switch.boots[0], switch.boots[-1]
        assert first.from_cd
        assert first.image is not None
        assert (second.from_cd, second.image) == (False, None)
        wait_until(lambda: switch.running > 1, INSTALL)
        assert wait_until(lambda: "login:" in switch.console, BOOT)
    assert switch.trouble == []
    assert "is taken out" in done.stderr
    assert "boots its disk" in done.stderr
    assert site.report(wanted)["report"]["state"] == "installed"
