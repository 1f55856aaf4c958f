"""`bedplate preset`: what an auditor reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.plan.catalog import BUILT_IN
from agent.plan.preset import Preset, load_preset


def bedplate(*argv: str, status: int = 0) -> str:
    done = CliRunner().invoke(main, ["preset", *argv])
    assert done.exit_code == status, done.output
    return done.output


def test_every_preset_is_listed_with_its_purpose(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("{name: ours, extends: plain, summary: for us}")
    lines = bedplate("list", "--site", str(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines] == [*BUILT_IN, "ours"]
    assert lines[-1].endswith("  for us")
    listed = json.loads(bedplate("list", "--site", str(tmp_path), "--json"))
    assert [one["name"] for one in listed] == [*BUILT_IN, "ours"]


def test_the_table_has_each_option_with_its_rules_below() -> None:
    lines = bedplate("show", "stig-rhel9").splitlines()
    assert "rules: DISA STIG for Red Hat Enterprise Linux 9, V2R9" in lines
    assert "encryption: RHEL-09-231190" in lines
    start = next(n for n, line in enumerate(lines) if line.startswith("/home "))
    assert [line.split(maxsplit=3)[-1] for line in lines[start : start + 1]] == [
        "nodev,nosuid,noexec"
    ]
    assert [line.strip() for line in lines[start + 1 : start + 5]] == [
        "own file system: RHEL-09-231010",
        "nodev: RHEL-09-231045, RHEL-09-231200",
        "nosuid: RHEL-09-231050",
        "noexec: RHEL-09-231055",
    ]
    assert max(map(len, lines)) <= 100


def test_json_is_the_whole_preset() -> None:
    shown = json.loads(bedplate("show", "cis-l2+stig-rhel9", "--json"))
    preset = load_preset("cis-l2+stig-rhel9")
    whole = {key: shown[key] for key in shown if key != "extends"}
    assert Preset.model_validate({**whole, "name": "copy"}).volumes == preset.volumes


@pytest.mark.parametrize("name", ["stig-rhel", "nothing"])
def test_a_name_that_is_not_there_is_a_problem(name: str) -> None:
    assert "is not one of plain" in bedplate("show", name, status=3)


def test_what_a_benchmark_asks_and_the_preset_leaves_open_is_said() -> None:
    assert "left open: ANSSI-BP-028-R29: /boot is mounted" in bedplate("show", "anssi-high")
