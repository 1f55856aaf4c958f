"""Machines installed from a registry: an image of ours, and a bootable container in layers."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from agent.oci.credentials import Credentials
from agent.oci.push import push, read_local
from agent.oci.registries import Registries
from agent.payload.options import FetchOptions
from agent.reference import Reference
from qemu.disk import GiB
from qemu.hardware import PAIR, Chassis, Hardware
from qemu.program import repository
from qemu.site import Site
from qemu.tang import HOST_SEEN_BY_GUEST
from tests.adapters.containers import TAR, packed, put
from tests.adapters.registry import Registry, registry
from tests.machine.conftest import install, up

HIDDEN = "usr/share/menu"
"""A directory of the sample that a layer takes away."""


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Registry]:
    with registry(site.lab.directory / "registry") as started:
        yield started


@pytest.fixture
def hardware(site: Site, request: pytest.FixtureRequest) -> Hardware:
    disk = replace(PAIR[0], size=16 * GiB)
    return site.lab.hardware(str(request.node.name)[:40], Chassis(disks=(disk,), tpm=False))


def plan_for(site: Site, hardware: Hardware, image: dict[str, str]) -> dict[str, Any]:
    """Return a plan for one plain disk: how disks are laid out is tested elsewhere."""
    plan = site.plan(
        hardware,
        image=image,
        disks={"count": 1, "where": {"serial": [hardware.chassis.disks[0].serial]}},
        storage={"preset": "plain"},
    )
    del plan["encryption"]
    return plan


def written(site: Site, plan: dict[str, Any]) -> dict[str, Any]:
    """Return the evidence of the step that wrote the image."""
    (done,) = (
        event
        for event in site.events(plan, site.last_run(plan))
        if event["step"] == "write-image" and event["state"] == "finished"
    )
    evidence: dict[str, Any] = done["evidence"]
    return evidence


def seen_by_guest(running: Registry, address: object) -> str:
    return str(address).replace(running.host, f"{HOST_SEEN_BY_GUEST}:{running.port}")


def test_an_image_that_was_pushed_is_installed(
    site: Site, running: Registry, hardware: Hardware
) -> None:
    options = FetchOptions(registry=Registries(Credentials(), "pull,push"))
    place = Reference.parse(f"{running}/images/debian:13")
    pushed = push(read_local(site.packed.manifest), place, options)
    address = seen_by_guest(running, place)
    plan = plan_for(site, hardware, {"manifest": address})
    install(site, hardware, plan, "oci-image")
    evidence = written(site, plan)
    assert evidence["manifest"] == address
    (mirror,) = evidence["mirrors"]
    assert mirror["url"].endswith("/v2/images/debian/blobs/sha256:{sha256}")
    assert mirror["bytes"] <= pushed.size


def changes() -> bytes:
    """Return a layer that adds a file, takes away a directory, and leaves an engine's mark."""
    above, _, name = HIDDEN.rpartition("/")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in (
            ("etc/layer", b"second\n"),
            (f"{above}/.wh.{name}", b""),
            (".dockerenv", b""),
            ("etc/resolv.conf", b""),
        ):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def last() -> bytes:
    """Return a layer that replaces what the one below it brought."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("etc/layer")
        member.size = len(b"third\n")
        archive.addfile(member, io.BytesIO(b"third\n"))
    return out.getvalue()


def test_a_bootable_container_is_installed_and_boots(
    site: Site, running: Registry, hardware: Hardware
) -> None:
    root = (repository() / "build/sample/debian.tar.zst").read_bytes()
    layers = [(f"{TAR}+zstd", root), packed(changes(), "gzip"), packed(last(), "plain")]
    reference = put(f"{running}/os/debian:13", layers)
    address = seen_by_guest(running, reference)
    plan = plan_for(site, hardware, {"oci": address})
    install(site, hardware, plan, "oci-container")
    evidence = written(site, plan)
    assert (evidence["manifest"], len(evidence["layers"])) == (address, 3)
    with site.lab.booted(hardware.machine("oci-boot"), until=up) as vm:
        said = vm.ssh.run(
            "systemctl is-system-running --wait; systemctl --failed --no-legend; "
            "systemd-detect-virt --container; cat /etc/layer; readlink /etc/resolv.conf; "
            f"ls -d /usr/share/misc /{HIDDEN} /.dockerenv",
            300,
            check=False,
        ).stdout.split()
        vm.poweroff()
    assert said == [
        "running", "none", "third", "../run/systemd/resolve/stub-resolv.conf",
        "/usr/share/misc",
    ]  # fmt: skip
