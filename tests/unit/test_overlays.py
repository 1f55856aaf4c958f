"""Overlays: small images laid over the first, each checked as the first is."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.errors import MachineError
from agent.find import Found
from agent.layout.extents import GIB
from agent.payload.contents import Kernel, Need, Tree
from agent.payload.layered import layered
from agent.payload.manifest import Manifest, Os
from agent.plan.model import Plan
from agent.preview import preview
from agent.resolve import Order, lay_out, resolve
from agent.session import run
from tests.unit.fakes import SERVER, FakeHost, order, plan
from tests.unit.plan.plans import problems_of, small
from tests.unit.target.test_check import manifest

NOW = datetime(2026, 11, 23, tzinfo=UTC)
GROUP, OWN = "https://images.example.com/databases.json", "https://images.example.com/db01.json"
OVERLAYS = [{"manifest": GROUP}, {"manifest": OWN, "token": "abcd"}]


def overlay(name: str, size: int = 1 << 20, **facts: Any) -> Manifest:
    base = manifest(set())
    tree = Tree(members=3, directories={"/": Need(bytes=size, inodes=3)}, **facts)
    return base.model_copy(update={"name": name, "os": None, "size": size, "tree": tree})


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path)
    found.images.others = {GROUP: overlay("databases"), OWN: overlay("db01")}
    return found


def decided(host: FakeHost, **changes: Any) -> Order:
    wanted = plan(overlays=OVERLAYS, **changes)
    return resolve(wanted, SERVER, host.machine(), NOW, lambda done, total: None)


def refusals(host: FakeHost, **changes: Any) -> list[str]:
    with pytest.raises(MachineError) as caught:
        decided(host, **changes)
    return [str(problem) for problem in caught.value.problems]


# --- what comes of an image and its overlays


def test_together_they_have_the_programs_kernels_and_room_of_all() -> None:
    base = manifest({"lvm", "dracut"})
    one = overlay(
        "one",
        programs={"clevis": "/usr/bin/clevis"},
        kernels=(Kernel(version="6.13", image="/boot/vmlinuz-6.13"),),
    )
    two = overlay("two", architecture="x86_64")
    both = layered(base, [one, two])
    assert both.name == "server + one + two"
    assert both.tree is not None
    assert both.tree.programs.keys() == {"lvm", "dracut", "clevis"}
    assert [kernel.version for kernel in both.tree.kernels] == ["6.12", "6.13"]
    assert both.tree.directories["/"] == Need(bytes=2 << 20, inodes=6)
    assert (both.os, both.sha256, both.size) == (base.os, base.sha256, base.size + (2 << 20))


def test_a_system_in_an_overlay_says_which_system_it_is() -> None:
    renamed = overlay("spin").model_copy(update={"os": Os(id="spin", version="1")})
    found = layered(manifest(set()), [renamed, overlay("own")]).os
    assert found is not None
    assert found.id == "spin"


def test_an_image_without_overlays_is_itself() -> None:
    base = manifest(set())
    assert layered(base, []) is base


# --- the checks


def test_an_overlay_that_is_not_to_be_had_is_refused_by_its_place(host: FakeHost) -> None:
    host.images.away = "404 Not Found"
    assert [told.partition(": ")[0] for told in refusals(host)] == [
        "image.manifest",
        "overlays[0].manifest",
        "overlays[1].manifest",
    ]


def test_what_cannot_be_laid_over_a_tree_is_refused(host: FakeHost) -> None:
    whole = manifest(set(), tree=False).model_copy(update={"name": "disk"})
    foreign = overlay("arm", architecture="aarch64")
    host.images.others = {GROUP: whole, OWN: foreign}
    host.images.manifest = host.images.manifest.model_copy(
        update={"tree": host.images.manifest.tree.model_copy(update={"architecture": "x86_64"})}
        if host.images.manifest.tree
        else {}
    )
    assert refusals(host) == [
        "overlays[0].manifest: disk is an image of a whole disk: an overlay is a tree",
        "overlays[1].manifest: arm is built for aarch64, debian13 for x86_64",
    ]


def test_an_old_overlay_is_refused_where_the_plan_says_how_old_it_may_be(host: FakeHost) -> None:
    asked = [OVERLAYS[0], {**OVERLAYS[1], "not_older_than": "2026-12-01T00:00:00Z"}]
    with pytest.raises(MachineError) as caught:
        resolve(plan(overlays=asked), SERVER, host.machine(), NOW, lambda done, total: None)
    (told,) = map(str, caught.value.problems)
    assert told == (
        "overlays[1].manifest: db01 was packed at 2026-11-22T00:00:00Z, the plan takes none older "
        "than 2026-12-01T00:00:00Z: this mirror has not the one that is meant"
    )
    asked[1]["not_older_than"] = "2026-11-22T00:00:00Z"
    found = resolve(plan(overlays=asked), SERVER, host.machine(), NOW, lambda done, total: None)
    assert len(found.overlays) == 2


def test_all_of_them_must_fit_the_volumes_together(host: FakeHost) -> None:
    host.images.others[OWN] = overlay("db01", size=900 * GIB)
    (told,) = refusals(host)
    assert told.startswith("/: the image debian13 + databases + db01 needs 900.")


def test_an_overlay_can_bring_what_the_image_lacks(host: FakeHost) -> None:
    section = host.images.manifest.tree
    assert section is not None
    without = {word: path for word, path in section.programs.items() if word != "mdadm"}
    bare = section.model_copy(update={"programs": without})
    host.images.manifest = host.images.manifest.model_copy(update={"tree": bare})
    (told,) = refusals(host)
    assert "has no mdadm" in told
    host.images.others[GROUP] = overlay("databases", programs={"mdadm": "/usr/sbin/mdadm"})
    assert decided(host).overlays[0].name == "databases"


def test_whole_disk_images_have_none() -> None:
    found = problems_of(small(storage={"preset": "whole-disk"}, overlays=[{"manifest": OWN}]))
    assert found == [
        (
            "overlays: a whole-disk image has file systems of its own, which are not opened: leave "
            "this out"
        )
    ]
    assert problems_of(small(overlays=[{"manifest": [OWN, OWN]}])) == [
        f"overlays[0].manifest[1]: {OWN} is there twice"
    ]


# --- preview, and a run


def test_a_preview_tells_of_each_in_its_order() -> None:
    wanted: Plan = plan(overlays=OVERLAYS)
    layout = lay_out(wanted, SERVER)
    assert not isinstance(layout, list)
    shown = preview(
        wanted, SERVER, layout, "nobody asked", overlays=(overlay("databases"), "it is away")
    )
    lines = list(shown.lines())
    at = lines.index("overlay databases  0 MiB to fetch, 1 MiB unpacked")
    assert lines[at + 1 : at + 4] == [
        f"  from {GROUP}",
        "overlay: how much there is to fetch is not known: it is away",
        f"  from {OWN}",
    ]
    titles = dict(shown.steps)
    assert titles["write-overlay-1"].startswith("Lay the image databases (1 MiB) over ")
    assert titles["write-overlay-2"] == f"Lay the image of {OWN} over it"
    assert [one["fetch"]["bytes"] for one in shown.plain()["overlays"]] == [10, None]
    assert "abcd" not in str(shown.plain())
    never_asked = preview(wanted, SERVER, layout, "nobody asked")
    assert len(never_asked.plain()["overlays"]) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="files of the tree get their owners")
def test_they_are_laid_over_the_image_in_their_order_and_reported(host: FakeHost) -> None:
    found = Found("a test", order(overlays=OVERLAYS))
    run(lambda inventory: found, host, host.reporter, lambda order: None)
    assert host.images.order == ["debian13", "databases", "db01"]
    report: Any = host.receiver.events[-1].evidence["report"]
    assert [one["name"] for one in report["overlays"]] == ["databases", "db01"]
    steps = [event.step for event in host.receiver.events if event.state == "finished"]
    first = steps.index("write-image")
    assert steps[first : first + 4] == [
        "write-image", "write-overlay-1", "write-overlay-2", "configure-host",
    ]  # fmt: skip
