"""What a preview tells: disks and why, what opens them, where from, in which order."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

from agent.checks.foreseen import foreseen
from agent.cli import main
from agent.cli.ask import manifest_of
from agent.fleet.outcome import compare
from agent.inventory.model import Content, Disk, Dmi, Inventory, Marker
from agent.layout.extents import GIB, MIB
from agent.payload.described import Described
from agent.plan.in_words import unlock_in_words
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.preview import Preview, preview
from agent.resolve import lay_out, resolve
from tests.unit.fakes import DISKS, SERVER, TANG, FakeHost, order, plan, sample_manifest
from tests.unit.plan import plans
from tests.unit.test_resolve import inventories

FURTHER = Disk(path="/dev/sdc", serial="SN3", size=8 * GIB, transport="usb")


def shown(
    wanted: Plan | None = None,
    machine: Inventory = SERVER,
    image: Described | str = "it was not asked",
) -> Preview:
    wanted = wanted or plan()
    layout = lay_out(wanted, machine)
    assert not isinstance(layout, list), layout
    return preview(wanted, machine, layout, image)


def line(found: Preview, start: str) -> str:
    (one,) = (text for text in found.lines() if text.startswith(start))
    return one


# --- the disks


def test_every_disk_is_taken_or_left_alone_for_a_reason() -> None:
    machine = SERVER.model_copy(update={"disks": (*DISKS, FURTHER)})
    where = {"size": "> 10 GiB", "rotational": False}
    found = shown(plan(disks={"count": 2, "where": where}), machine)
    assert line(found, "takes /dev/vda") == (
        "takes /dev/vda (no model, serial SN1) for the system: size 64.0 GiB is > 10 GiB; "
        "does not spin"
    )
    assert line(found, "leaves /dev/sdc") == (
        "leaves /dev/sdc (no model, serial SN3) alone: is attached by usb and not named, "
        "size 8.0 GiB is not > 10 GiB"
    )
    assert [(each["serial"], each["use"]) for each in found.plain()["chosen"]] == [
        ("SN1", "system"),
        ("SN2", "system"),
        ("SN3", None),
    ]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({"serial": ["SN1", "SN2"]}, "is named by its serial SN1"),
        ({"path": ["/dev/vda", "/dev/nvme0n1"]}, "is named by its path /dev/vda"),
        ({"transport": ["virtio", "nvme"]}, "is attached by virtio"),
        ({}, "the plan asks for nothing special, and exactly as many disks as it counts are left"),
    ],
)
def test_a_disk_is_taken_for_what_it_meets(where: dict[str, Any], why: str) -> None:
    found = shown(plan(disks={"count": 2, "where": where}))
    assert found.chosen[0].why == (why,)


def test_a_plan_that_was_carried_out_is_told_to_do_nothing() -> None:
    wanted = plan()
    marker = Marker(plan=wanted.id, hostname="db01", machine="CZ1234", finished="2026-11-01T00:00Z")
    done = DISKS[1].model_copy(update={"marker": marker})
    found = shown(wanted, SERVER.model_copy(update={"disks": (DISKS[0], done)}))
    assert "carried out at 2026-11-01T00:00Z" in line(found, "installed already")
    assert found.plain()["installed_already"] == "2026-11-01T00:00Z"
    assert shown().plain()["installed_already"] is None
    assert not any(text.startswith("installed") for text in shown().lines())


# --- the layout, what is lost


def test_sizes_are_exact_to_the_mib() -> None:
    found = shown()
    (var,) = (v for v in found.plain()["layout"]["volumes"] if v["mount"] == "/var")
    (told,) = (text for text in found.lines() if " /var " in text)
    assert f" {var['size'] // MIB} MiB " in told
    assert var["size"] % MIB == 0


def test_what_is_lost_is_named_or_said_to_be_nothing() -> None:
    old = Content(device="/dev/vda1", kind="ext4", label="old", size=GIB)
    used = SERVER.model_copy(
        update={"disks": (DISKS[0].model_copy(update={"content": (old,)}), DISKS[1])}
    )
    found = shown(plan(disks={"count": 2, "erase": "any"}), used)
    assert line(found, "LOST: ") == 'LOST: /dev/vda1: ext4, 1.0 GiB, label "old"'
    assert found.plain()["lost"] == ['/dev/vda1: ext4, 1.0 GiB, label "old"']
    assert line(shown(), "nothing is lost")


# --- what opens it


@pytest.mark.parametrize(
    ("policy", "servers", "words"),
    [
        ("tpm2", 0, "at boot this machine's TPM (PCR 7) must answer; nobody types anything"),
        ("tang", 1, "at boot the Tang server http://t0 must answer; nobody types anything"),
        (
            "tpm2 and tang",
            1,
            "at boot this machine's TPM (PCR 7) and the Tang server http://t0: both must answer",
        ),
        (
            "tpm2 or tang",
            1,
            (
                "at boot this machine's TPM (PCR 7) or the Tang server http://t0: either is enough "
                "to answer"
            ),
        ),
        (
            "tpm2 and 1 of tang",
            2,
            (
                "at boot this machine's TPM (PCR 7) and 1 of the 2 Tang servers http://t0, "
                "http://t1: both must answer"
            ),
        ),
        (
            "2 of tang",
            2,
            (
                "at boot the Tang server http://t0 and the Tang server http://t1 must answer; "
                "nobody types anything"
            ),
        ),
    ],
)
def test_a_policy_is_said_in_words(policy: str, servers: int, words: str) -> None:
    tang = [{"url": f"http://t{n}", "thumbprint": plans.THUMBPRINT} for n in range(servers)]
    encryption = Plan.model_validate(plans.encrypted(policy, tang=tang)).encryption
    assert encryption is not None
    first, *others = unlock_in_words(encryption)
    assert first == words
    assert any("until the installed system has started once" in each for each in others) is (
        "tpm2" in policy
    )
    assert "the recovery key opens them" in others[-1]


def test_disks_that_are_not_encrypted_are_said_to_be_so() -> None:
    found = shown(plan(unlock=None))
    assert line(found, "unlock: ") == "unlock: nothing, the disks are not encrypted"
    assert found.plain()["unlock"] is None


# --- the image and the steps


def test_an_image_that_was_read_says_how_much_there_is_to_fetch() -> None:
    manifest = sample_manifest()
    found = shown(image=manifest)
    assert found.plain()["fetch"] == {
        "image": "debian13",
        "bytes": manifest.payload.size,
        "unpacked": manifest.size,
        "unknown": None,
    }
    assert "to fetch" in line(found, "image debian13")


def test_an_image_that_was_not_read_is_said_and_not_guessed() -> None:
    found = shown()
    assert found.plain()["fetch"] == {
        "image": None,
        "bytes": None,
        "unpacked": None,
        "unknown": "it was not asked",
    }
    assert line(found, "image:") == (
        "image: how much there is to fetch is not known: it was not asked"
    )


def test_every_mirror_is_named() -> None:
    mirrors = [f"https://{name}.example.com/debian13.json" for name in ("images", "mirror")]
    found = shown(plan(image={"manifest": mirrors}))
    assert found.plain()["sources"] == mirrors
    assert line(found, "  mirror ") == f"  mirror {mirrors[1]}"


@pytest.mark.parametrize("unlock", ["tpm2 and tang", "tang", "tpm2", None])
def test_the_steps_are_those_of_the_installation(tmp_path: Path, unlock: str | None) -> None:
    wanted = plan(unlock)
    machine = FakeHost(tmp_path).machine()
    now = datetime(2026, 11, 22, tzinfo=UTC)
    decided = resolve(wanted, SERVER, machine, now, lambda done, total: None)
    here = str(machine.root)
    told = [
        (step.name, step.describe().replace(here, "/run/bedplate/target")) for step in decided.steps
    ]
    assert list(shown(wanted, image=decided.manifest).steps) == told
    unread = shown(wanted).steps
    assert [name for name, _ in unread] == [name for name, _ in told]
    (title,) = (title for name, title in unread if name == "write-image")
    assert title == "Write the image of https://images.example.com/debian13.json"


def test_a_whole_disk_image_has_its_own_steps() -> None:
    found = shown(plan(unlock=None, storage={"preset": "whole-disk"}))
    assert [name for name, _ in found.steps] == [
        "clear-disks",
        "mirror-disks",
        "flash-image",
        "enter-image",
        "close-target",
    ]


def test_disks_that_shall_forget_do_so_first() -> None:
    found = shown(plan(disks={"count": 2, "secure_erase": "auto"}))
    assert found.steps[0] == (
        "secure-erase",
        "Have each disk forget everything, by the first way that it has",
    )


def test_deviations_and_what_a_preset_leaves_open_are_told() -> None:
    without = {"preset": "stig-rhel9", "without": ["/home"]}
    assert line(shown(plan(storage=without)), "deviates from stig-rhel9: RHEL-09-231010")
    found = shown(plan(storage={"preset": "anssi-high"}))
    assert [text for text in found.lines() if text.startswith("left open by anssi-high: ")]
    assert found.plain()["left_open"][0]["rules"] == ["ANSSI-BP-028-R28"]


# --- on the command line


def test_an_image_in_a_file_is_looked_at_without_a_network(tmp_path: Path) -> None:
    manifest = sample_manifest()
    (tmp_path / "image.json").write_bytes(manifest.model_dump_json(exclude_none=True).encode())
    wanted = plan(image={"manifest": f"file://{tmp_path}/image.json"})
    assert manifest_of(wanted) == manifest
    (tmp_path / "image.json").unlink()
    assert "image.json" in str(manifest_of(wanted))


def test_a_container_tells_nothing_before_it_is_read() -> None:
    digest = "sha256:" + "0" * 64
    wanted = plan(image={"oci": f"oci://registry.example.com/os@{digest}"})
    assert "only when it is read" in str(manifest_of(wanted))


def test_offline_asks_nobody(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(order())
    (tmp_path / "machine.json").write_text(SERVER.model_dump_json())
    done = CliRunner().invoke(
        main,
        [
            "preview",
            f"{tmp_path}/plan.yaml",
            "--inventory",
            f"{tmp_path}/machine.json",
            "--offline",
        ],
    )
    assert done.exit_code == 0
    assert "nobody was asked (--offline)" in done.stdout
    assert TANG in done.stdout


# --- anything at all


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(inventories, plans.plans)
def test_any_plan_on_any_machine_is_told_or_is_a_problem(
    machine: Inventory, content: dict[str, Any]
) -> None:
    whatever = {"count": max(1, min(2, len(machine.disks))), "erase": "any"}
    wanted = parse(plans.text_of({**content, "disks": whatever, "storage": {}}))
    known = Dmi(serial=wanted.machine.serial, uuid=wanted.machine.uuid)
    machine = machine.model_copy(update={"dmi": known})
    refused = tuple(foreseen(wanted, machine, datetime(2026, 11, 23, tzinfo=UTC)))
    fleet = compare([("one.yaml", wanted)], [machine], datetime(2026, 11, 23, tzinfo=UTC))
    assert len(fleet.groups) + len(fleet.failed) == 1
    layout = lay_out(wanted, machine)
    if isinstance(layout, list):
        assert fleet.failed
        return
    found = preview(wanted, machine, layout, "nobody was asked", refused=refused)
    assert all(text.isprintable() for text in found.lines())
    assert json.loads(json.dumps(found.plain()))["hostname"] == wanted.hostname
