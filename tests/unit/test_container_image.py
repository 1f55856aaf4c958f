"""A plan that names a bootable container: checks, steps and report treat it as any tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.errors import MachineError
from agent.payload.contents import Kernel
from agent.resolve import Order, resolve
from agent.steps.base import Evidence
from agent.steps.write_image import WriteImage
from agent.target.contents import Unpacked
from agent.target.identity import forget
from agent.target.tree import Tree
from tests.unit.fakes import SERVER, FakeHost, plan
from tests.unit.test_resolve import NOW

REFERENCE = "oci://registry.example.com/os/debian@sha256:" + "ab" * 32


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def decide(host: FakeHost, **changes: Any) -> Order:
    chosen = plan(image={"oci": REFERENCE.removeprefix("oci://")}, **changes)
    return resolve(chosen, SERVER, host.machine(), NOW, lambda done, total: None)


def test_it_is_surveyed_and_laid_like_a_tree_and_the_report_names_its_layers(
    host: FakeHost,
) -> None:
    order = decide(host)
    machine = host.machine()
    evidence: Evidence = {}
    for step in order.steps:
        evidence = step.apply(machine, lambda done, total: None)
        if isinstance(step, WriteImage):
            break
    assert host.images.laid == [machine.root]
    assert evidence["manifest"] == REFERENCE
    assert evidence["layers"] == ["sha256:1"]
    assert "signed_by" not in evidence


def test_problems_carry_the_key_that_the_plan_has(host: FakeHost) -> None:
    host.images.wrong = "registry.example.com/os/debian: answered 404"
    with pytest.raises(MachineError) as caught:
        decide(host)
    assert [str(problem) for problem in caught.value.problems] == [
        "image.oci: registry.example.com/os/debian: answered 404"
    ]


def test_what_is_missing_in_it_is_a_problem_of_image_oci(host: FakeHost) -> None:
    section = host.images.manifest.tree
    assert section is not None
    bare = section.model_copy(update={"kernels": ()})
    host.images.manifest = host.images.manifest.model_copy(update={"tree": bare})
    with pytest.raises(MachineError, match=r"^image\.oci: .* has no kernel"):
        decide(host)


def test_an_initramfs_beside_its_kernel_is_found_in_the_tree(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/modules/6.12.0-1"
    place.mkdir(parents=True)
    (place / "vmlinuz").touch()
    (place / "initramfs.img").touch()
    assert Unpacked(Tree(tmp_path)).kernels() == (
        Kernel(
            version="6.12.0-1",
            image="/usr/lib/modules/6.12.0-1/vmlinuz",
            initrd="/usr/lib/modules/6.12.0-1/initramfs.img",
        ),
    )


def test_the_marks_of_container_engines_are_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for mark in (".dockerenv", "run/.containerenv"):
        (tmp_path / mark).touch()
    assert set(forget(Tree(tmp_path))) == {"/.dockerenv", "/run/.containerenv"}
    assert not list(tmp_path.glob(".dockerenv"))
