"""An operator's own keys: enrolled from the live image, and what the firmware starts then."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qemu.facts import pins
from qemu.hardware import Hardware
from qemu.lab import Lab
from qemu.live import LiveImage
from qemu.program import repository, run
from qemu.site import FAMILIES, IMAGE, KEY, Packed, Site
from tests.boot.media import plan, text, with_medium
from tests.boot.secure import FRESH, Sealed, installed, started


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    return Site(lab)


@pytest.fixture(scope="module")
def keys(lab: Lab) -> Path:
    """An operator's keys, as `bedplate keys make` makes them."""
    directory = lab.directory / "secureboot"
    run(repository() / ".venv/bin/python", "-m", "agent", "keys", "make", "-d", directory)
    return directory


@pytest.fixture(scope="module")
def owned(lab: Lab, rig: LiveImage, keys: Path) -> Hardware:
    """A machine whose firmware took the keys from `bedplate keys enroll` in the live image."""
    hardware = lab.hardware("owned", FRESH)
    with lab.booted(lab.live(hardware, "enroll", image=rig)) as vm:
        vm.shell.wait()
        assert vm.shell.run("bedplate keys status").text.strip() == "setup"
        for name in ("PK", "KEK", "db"):
            vm.ssh.write(f"/run/{name}.auth", (keys / f"{name}.auth").read_bytes())
        vm.shell.run("bedplate keys enroll -d /run")
        vm.poweroff()
    return hardware


def sign(keys: Path, source: Path, target: Path) -> Path:
    """Add the operator's signature to an EFI program."""
    run("sbsign", "--key", keys / "db.key", "--cert", keys / "db.crt", "--output", target, source)
    return target


def medium_of(lab: Lab, uki: Path, name: str) -> Path:
    """Return a disk with nothing but an ESP that starts this UKI, as a stick of an operator."""
    image = lab.directory / f"{name}.raw"
    image.unlink(missing_ok=True)
    size = uki.stat().st_size // 2**20 + 8
    run("truncate", "-s", f"{size}M", image)
    run("mkfs.vfat", "-F", "32", "-s", "1", image)
    run("mmd", "-i", image, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", image, uki, "::/EFI/BOOT/BOOTX64.EFI")
    return image


@pytest.fixture(scope="module")
def signed(lab: Lab, rig: LiveImage, keys: Path) -> Path:
    """The live image on a medium, signed by the operator."""
    return medium_of(lab, sign(keys, rig.uki, lab.directory / "signed.efi"), "signed")


def test_a_uki_signed_by_the_operator_starts_and_finds_its_plan(
    lab: Lab, owned: Hardware, signed: Path
) -> None:
    machine = with_medium(
        lab.branch(owned, "signed"), "boot-signed", signed, "virtio",
        credentials=(lab.login, ("bedplate.plan", text(plan(lab)))),
    )  # fmt: skip
    with lab.booted(machine, until="login|NOT") as vm:
        vm.wait_for("NOT INSTALLED", 300)
        assert "Secure boot enabled" in vm.ssh.run("dmesg").stdout
        assert vm.ssh.run("bedplate keys status").stdout.strip() == "on"


def test_a_uki_that_nobody_signed_is_refused_by_the_firmware(
    lab: Lab, rig: LiveImage, owned: Hardware
) -> None:
    unsigned = lab.directory / "unsigned.efi"
    shutil.copyfile(rig.uki, unsigned)
    run("sh", "-c", f"sbattach --remove {unsigned} || true")
    medium = medium_of(lab, unsigned, "unsigned")
    machine = with_medium(lab.branch(owned, "unsigned"), "boot-unsigned", medium, "virtio")
    with lab.power_on(replace(machine, nics=())) as vm:
        vm.wait_for("Access Denied|Security Violation", 300, unless="Linux version|NOT INSTALLED")
        vm.quit()  # nothing runs that could shut it down


@pytest.fixture(scope="module")
def own_image(lab: Lab, keys: Path) -> Packed:
    """The sample with systemd-boot, its loader and its kernel signed by the operator."""
    directory = lab.directory / "own-image"
    tree = directory / "tree"
    tree.mkdir(parents=True)
    tar = repository() / "build" / FAMILIES["dracut"][0] / "debian.tar.zst"
    run("tar", "-x", "--zstd", "-p", "--xattrs", "--xattrs-include=*", "--numeric-owner",
        "-f", tar, "-C", tree, timeout=300)  # fmt: skip
    loader = tree / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    for program in (loader, *(tree / "boot").glob("vmlinuz-*")):
        sign(keys, program, directory / "signed.efi").replace(program)
    run(
        repository() / ".venv/bin/python", "-m", "agent", "pack", tree,
        "--name", f"{IMAGE}-own", "--key", KEY, "--directory", directory, timeout=600,
    )  # fmt: skip
    shutil.rmtree(tree)
    return Packed(directory, f"{IMAGE}-own")


@pytest.fixture(scope="module")
def own(lab: Lab, site: Site, owned: Hardware, signed: Path, own_image: Packed) -> Sealed:
    """The signed UKI installs the signed image and seals it in the live system, to PCR 7."""
    hardware = lab.branch(owned, "own")
    given = site.plan(hardware)["encryption"]
    order = site.plan(
        hardware,
        image={"manifest": site.offer(own_image)},
        storage={"preset": "plain"},
        encryption={**given, "tpm2": {"pcrs": [7], "seal": "now"}},
    )
    given = (lab.login, ("bedplate.plan", text(order)))
    live = installed(site, with_medium(hardware, "own-install", signed, "virtio",
                                       credentials=given))  # fmt: skip
    first = started(site, hardware, "own-first-boot", seals=False)
    second = started(site, hardware, "own-second-boot", seals=False)
    return Sealed(hardware, order, live, first, second)


def test_a_loader_and_a_kernel_signed_by_the_operator_start_with_secure_boot_on(
    own: Sealed,
) -> None:
    for trust in (own.live, own.first.trust, own.second.trust):
        assert trust.secure_boot
        assert "Secure boot enabled" in trust.kernel
    assert own.second.facts.said["hostname"].strip() == "db01.example.com"
    assert (own.second.facts.state, own.second.facts.said["failed"].strip()) == ("running", "")


def test_one_key_for_both_makes_the_live_systems_seal_right_from_the_start(own: Sealed) -> None:
    leaves = dict(pins(own.config))
    assert (own.config["sss"]["t"], leaves["tpm2"]["pcr_ids"]) == (2, "7")
    assert own.live.pcr7 == own.first.trust.pcr7 == own.second.trust.pcr7
    assert min(own.first.asked, own.second.asked) >= 1
