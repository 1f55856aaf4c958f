"""The operator's medium: which one is believed, and what is read from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.medium import Medium, Properties, trusted_files
from agent.adapters.plan_sources import MediumPlan
from agent.errors import CommandError, MachineError
from agent.find import PLAN_LIMIT, Found
from agent.policy import Policy
from agent.secret import Secret

PLAN = b"version: 1\nhostname: db01\n"
LABELLED = {"ID_FS_LABEL": "BEDPLATE"}
CD = {
    **LABELLED,
    "DEVNAME": "/dev/sr0",
    "ID_CDROM": "1",
    "ID_BUS": "ata",
    "MAJOR": "11",
    "MINOR": "0",
    "ID_FS_TYPE": "iso9660",
}


def partition(disk: str, number: int, **more: str) -> Properties:
    """Return what udev says of a partition of sda, sdb ... on its bus."""
    minor = (ord(disk[-1]) - ord("a")) * 16
    return {
        "DEVNAME": f"/dev/{disk}{number}",
        "DEVTYPE": "partition",
        "MAJOR": "8",
        "MINOR": str(minor + number),
        "ID_PART_ENTRY_DISK": f"8:{minor}",
        "ID_PART_ENTRY_UUID": f"uuid-{disk}{number}",
        **more,
    }


STICK = partition("sdb", 2, ID_BUS="usb", **LABELLED)
STALE = partition("sda", 2, ID_BUS="ata", **LABELLED)
"""An internal disk that the image was written to once."""


@dataclass
class Programs:
    """mount and umount: mounting brings `files` forth."""

    files: dict[str, bytes] = field(default_factory=dict)
    broken: str = ""
    mounted: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def __call__(self, *argv: Any, secret: Secret | None = None, timeout: float = 60) -> str:
        if argv[0] == self.broken:
            raise CommandError([str(word) for word in argv], "exited with status 32")
        assert argv[0] == "mount"
        _, _, options, device, place = argv
        self.options += options.split(",")
        self.mounted.append(device)
        for name, content in self.files.items():
            (Path(place) / name).write_bytes(content)
        return ""


def medium(
    tmp_path: Path, programs: Programs, *devices: Properties, booted: str | None = None
) -> Medium:
    loader = tmp_path / "loader"
    if booted is not None:
        loader.write_bytes(b"\7\0\0\0" + booted.upper().encode("utf-16-le") + b"\0\0")
    return Medium(programs, tmp_path / "media", lambda: devices, loader)


def refusal(plan: MediumPlan) -> str:
    with pytest.raises(MachineError) as caught:
        plan.read()
    return str(caught.value)


@pytest.mark.parametrize("device", [CD, STICK, {**STICK, "ID_BUS": "ata", "DEVPATH": "/a/usb2/b"}])
def test_a_plan_on_a_cd_or_a_usb_disk_is_read(tmp_path: Path, device: Properties) -> None:
    programs = Programs({"plan.yaml": PLAN, "plan.yaml.sig": b"s" * 64})
    found = MediumPlan(medium(tmp_path, programs, device)).read()
    assert found == Found("medium BEDPLATE: plan.yaml", PLAN, b"s" * 64)
    assert {"ro", "nodev", "nosuid", "noexec"} <= set(programs.options)
    assert programs.mounted == [device["DEVNAME"]]


def test_a_label_on_an_internal_disk_is_never_believed(tmp_path: Path) -> None:
    programs = Programs({"plan.yaml": PLAN})
    assert MediumPlan(medium(tmp_path, programs, STALE)).read() is None
    assert programs.mounted == [], "it is not even mounted"


def test_a_stale_label_on_an_internal_disk_does_not_hide_the_stick(tmp_path: Path) -> None:
    programs = Programs({"plan.yaml": PLAN})
    found = medium(tmp_path, programs, STALE, STICK)
    assert MediumPlan(found).read() is not None
    assert programs.mounted == ["/dev/sdb2"]


def test_the_internal_disk_that_was_booted_from_is_a_medium(tmp_path: Path) -> None:
    esp = partition("sda", 1, ID_BUS="ata")
    programs = Programs({"plan.yaml": PLAN})
    found = medium(tmp_path, programs, esp, STALE, booted="uuid-sda1")
    assert MediumPlan(found).read() is not None
    assert programs.mounted == ["/dev/sda2"]


def test_of_two_media_the_one_that_was_booted_from_counts(tmp_path: Path) -> None:
    esp = partition("sdb", 1, ID_BUS="usb")
    programs = Programs()
    medium(tmp_path, programs, CD, esp, STICK, booted="uuid-sdb1").attach()
    assert programs.mounted == ["/dev/sdb2"]


def test_of_two_equal_media_none_is_chosen_by_chance(tmp_path: Path) -> None:
    programs = Programs({"plan.yaml": PLAN})
    said = refusal(MediumPlan(medium(tmp_path, programs, CD, STICK)))
    assert said == "medium BEDPLATE: 2 are there (/dev/sdb2, /dev/sr0): take all out but one"
    assert programs.mounted == []


def test_an_iso_on_a_stick_is_one_medium_though_disk_and_partition_have_its_label(
    tmp_path: Path,
) -> None:
    disk = {"DEVNAME": "/dev/sdb", "MAJOR": "8", "MINOR": "16", "ID_BUS": "usb", **LABELLED}
    programs = Programs({"plan.yaml": PLAN})
    found = medium(tmp_path, programs, disk, partition("sdb", 1, ID_BUS="usb", **LABELLED))
    assert MediumPlan(found).read() is not None
    assert programs.mounted == ["/dev/sdb"]


def test_no_medium_and_a_medium_without_a_plan_are_no_plan(tmp_path: Path) -> None:
    assert MediumPlan(medium(tmp_path, Programs())).read() is None
    assert MediumPlan(medium(tmp_path, Programs({"x": b""}), STICK)).read() is None


def test_a_medium_that_appears_late_is_waited_for(tmp_path: Path) -> None:
    there = threading.Event()

    def devices() -> list[Properties]:
        if there.is_set():
            return [STICK]
        there.set()
        return []

    late = Medium(Programs({"plan.yaml": PLAN}), tmp_path / "media", devices, tmp_path / "none")
    assert MediumPlan(late, patience=60).read() is not None


def test_one_that_cannot_be_mounted_is_named_and_no_other_plan_is_taken(tmp_path: Path) -> None:
    broken = Programs({"plan.yaml": PLAN}, broken="mount")
    said = refusal(MediumPlan(medium(tmp_path, broken, STICK)))
    assert said.startswith("medium BEDPLATE: mount ")


def test_one_that_cannot_be_mounted_stops_nobody_who_has_a_plan_from_elsewhere(
    tmp_path: Path,
) -> None:
    found = medium(tmp_path, Programs(broken="mount"), STICK)
    found.attach()
    assert found.source is None
    assert found.fault is not None


def test_a_plan_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "media/plan.yaml").mkdir(parents=True)
    said = refusal(MediumPlan(medium(tmp_path, Programs(), STICK)))
    assert said.startswith("medium BEDPLATE: plan.yaml: cannot be read: ")


def test_a_plan_on_a_medium_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    programs = Programs({"plan.yaml": bytes(3 * PLAN_LIMIT)})
    found = MediumPlan(medium(tmp_path, programs, STICK)).read()
    assert found is not None
    assert len(found.content) == PLAN_LIMIT + 1


@pytest.mark.parametrize(
    ("signed", "names"), [(False, ["ours.pub", "theirs.pub"]), (True, ["ours.pub"])]
)
def test_keys_on_a_medium_count_unless_plans_must_be_signed(
    tmp_path: Path, signed: bool, names: list[str]
) -> None:
    baked, brought = tmp_path / "etc", tmp_path / "media"
    for directory, name in ((baked, "ours.pub"), (brought, "theirs.pub"), (brought, "x.txt")):
        directory.mkdir(exist_ok=True)
        (directory / name).touch()
    found = trusted_files(baked, brought, "*.pub", Policy(require_signed_plan=signed))
    assert [path.name for path in found] == names


def test_without_a_medium_the_keys_of_the_image_count(tmp_path: Path) -> None:
    (tmp_path / "ours.pub").touch()
    assert trusted_files(tmp_path, tmp_path / "none", "*.pub", Policy()) == [tmp_path / "ours.pub"]
