"""The commands that look at a machine, on this one: they read, and never end in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.inventory.model import Inventory
from tests.unit.fakes import order

SOURCES = Path(__file__).parents[2]


def bedplate(
    *arguments: str | Path, before: str = "", stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    program = f"import sys\n{before}\nfrom agent.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), "PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.fixture(scope="module")
def recorded() -> str:
    done = bedplate("inventory", "--json")
    assert done.returncode == 0
    return done.stdout


def test_the_inventory_of_this_machine_loads_back(recorded: str) -> None:
    machine = Inventory.model_validate_json(recorded)
    assert machine.memory == int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert {nic.name for nic in machine.nics} <= {
        path.name for path in Path("/sys/class/net").iterdir()
    }
    for disk in machine.disks:
        sectors = int(Path("/sys/class/block", Path(disk.path).name, "size").read_text())
        assert disk.size == sectors * 512
    assert json.loads(recorded) == machine.model_dump(mode="json")


def test_preview_says_the_same_of_a_machine_and_of_its_record(
    recorded: str, tmp_path: Path
) -> None:
    (tmp_path / "machine.json").write_text(recorded)
    plan = order(disks={"count": 2, "where": {"serial": ["no such disk", "nor this"]}})
    here = bedplate("preview", "-", "--json", stdin=plan)
    there = bedplate("preview", "-", "--inventory", tmp_path / "machine.json", "--json", stdin=plan)
    assert (here.returncode, there.returncode) == (4, 4)
    assert json.loads(here.stdout) == json.loads(there.stdout)
    assert "0 match, the plan counts 2" in json.loads(here.stdout)["error"]


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_check_outside_the_live_image_says_what_is_missing(json_too: list[str]) -> None:
    # Where blivet is installed, the trusted keys are not.
    done = bedplate("check", "-", *json_too, before="sys.modules['blivet'] = None", stdin=order())
    assert done.returncode == 4
    said = json.loads(done.stdout)["error"] if json_too else done.stderr
    assert "need the live image" in said
    assert "preview does not" in said


def test_check_reads_the_plan_before_the_machine() -> None:
    assert bedplate("check", "-", stdin=b"version: 1\n").returncode == 3


def test_serve_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    done = bedplate("serve", tmp_path, before="sys.modules['starlette'] = None")
    assert done.returncode == 4
    assert 'needs starlette: install it with pip install "bedplate[server]"' in done.stderr


def test_what_nobody_reads_any_more_ends_without_a_word() -> None:
    program = [sys.executable, "-m", "agent", "--help"]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=SOURCES
    ) as running:
        assert running.stdout is not None
        running.stdout.close()
        _, complaint = running.communicate(timeout=60)
    assert b"Traceback" not in complaint
