from datetime import UTC, datetime
from typing import cast

import pytest

from agent.checks.target import TargetWorks
from agent.machine import Machine
from agent.payload.contents import Kernel, Tree
from agent.payload.manifest import Chunk, Manifest, Os, Payload
from agent.plan.encryption import Encryption, Recovery
from agent.plan.unlock import Policy
from tests.unit.target.sample import layout
from tests.unit.target.test_family import WORDS

NO_PORTS = cast(Machine, None)
"""The check asks the manifest and nobody else."""


def manifest(words: set[str], *, like: tuple[str, ...] = (), tree: bool = True) -> Manifest:
    section = Tree(
        members=1,
        directories={},
        kernels=(Kernel(version="6.12", image="/boot/vmlinuz-6.12"),),
        programs=dict.fromkeys(sorted(words), "/usr/bin/x"),
        architecture="x86_64",
    )
    digest = "0" * 64
    return Manifest(
        version=1,
        name="server",
        created=datetime(2026, 11, 22, tzinfo=UTC),
        kind="tree" if tree else "disk",
        os=Os(id="rhel" if like else "debian", version="1", like=like),
        size=1,
        sha256=digest,
        chunk_size=1 << 20,
        digest="sha256",
        payload=Payload(urls=("server.zst",), size=10),
        tree=section if tree else None,
        chunks=(Chunk(offset=0, length=1, at=0, stored=10, sha256=digest),),
    )


def encryption(policy: Policy) -> Encryption:
    return Encryption.model_construct(
        unlock=policy, tang=(), recovery=Recovery.model_construct(escrow_to=())
    )


def refusals(
    found: Manifest, policy: Policy | None = None, architecture: str = "x86_64", disks: int = 1
) -> list[str]:
    chosen = layout(disks=disks, encrypted=policy is not None)
    check = TargetWorks(found, chosen, encryption(policy) if policy else None, architecture)
    assert "server" in check.describe()
    return [problem.message for problem in check.problems(NO_PORTS)]


def test_a_complete_image_passes_whatever_is_asked() -> None:
    assert refusals(manifest(WORDS), Policy(tpm2=True, tang=1), disks=2) == []


def test_what_is_needed_follows_from_the_layout_and_the_policy() -> None:
    words = WORDS - {"mdadm", "dracut/mdraid"}
    assert refusals(manifest(words), Policy(tpm2=True)) == []
    assert len(refusals(manifest(words), Policy(tpm2=True), disks=2)) == 2
    words = WORDS - {"clevis-decrypt-tang", "dracut/network", "dracut/clevis-pin-tang"}
    assert refusals(manifest(words), Policy(tpm2=True)) == []
    assert len(refusals(manifest(words), Policy(tpm2=True, tang=1))) == 3


def test_an_image_for_another_architecture_is_refused() -> None:
    [message] = refusals(manifest(WORDS), architecture="aarch64")
    assert message == "server is built for x86_64, this machine is aarch64"


@pytest.mark.parametrize(("like", "package"), [((), "lvm2"), (("fedora",), "lvm2")])
def test_the_family_is_that_of_the_manifest(like: tuple[str, ...], package: str) -> None:
    [message] = refusals(manifest(WORDS - {"lvm"}, like=like))
    assert message.endswith(package)
    [message] = refusals(manifest(WORDS - {"systemd-boot"}, like=like))
    assert ("systemd-boot-unsigned" in message) == bool(like)


def test_a_whole_disk_image_is_left_to_the_check_that_refuses_it() -> None:
    assert refusals(manifest(set(), tree=False)) == []
