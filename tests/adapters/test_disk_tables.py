"""What people are told of the partition table of a whole-disk image, when packed and looked at."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.payload.sign import keygen

MIB = 1 << 20
TABLE = """label: gpt
size=8MiB, type=uefi, uuid=AAAAAAAA-0000-4000-8000-000000000001, name="esp"
type=linux, name="a root"
"""


def bedplate(*words: str | Path) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def room(tmp_path: Path) -> Path:
    keygen(tmp_path / "image.key", tmp_path / "image.pub")
    return tmp_path


def packed(room: Path, table: str | None) -> Result:
    raw = room / "raw"
    raw.touch()
    os.truncate(raw, 32 * MIB)
    if table is not None:
        argv = ["sfdisk", "--quiet", str(raw)]
        subprocess.run(argv, input=table.encode(), check=True, capture_output=True)
    return bedplate("pack", raw, "--as", "disk", "-n", "d", "-k", room / "image.key", "-d", room)


def test_inspect_shows_the_partitions_of_a_disk(room: Path) -> None:
    assert packed(room, TABLE).stderr == ""
    lines = bedplate("image", "inspect", room / "d.json").stdout.splitlines()
    assert lines[-3:] == [
        "table      GPT, sectors of 512 bytes, 2 partitions",
        "partition    1          8.4 MB  EFI system partition  esp",
        "partition    2         23.1 MB  Linux  a root",
    ]
    told = json.loads(bedplate("image", "inspect", room / "d.json", "--json").stdout)["table"]
    first, second = told["partitions"]
    assert first["partuuid"] == "aaaaaaaa-0000-4000-8000-000000000001"
    assert (first["start"], first["size"], second["start"]) == (MIB, 8 * MIB, 9 * MIB)


def test_a_disk_without_a_loader_is_told(room: Path) -> None:
    packed(room, TABLE.replace("type=uefi", "type=swap"))
    shown = bedplate("image", "inspect", room / "d.json").stdout
    assert "firmware finds no loader: it has no EFI system partition" in shown


@pytest.mark.parametrize("table", [None, "label: dos\nsize=8MiB, type=83, bootable\n"])
def test_a_disk_that_no_machine_would_take_is_warned_of_when_it_is_packed(
    room: Path, table: str | None
) -> None:
    said = "has no GUID partition table: no machine takes it as a whole disk"
    assert f"bedplate: warning: {room}/d.raw.zst: {said}" in packed(room, table).stderr
    assert said in bedplate("image", "inspect", room / "d.json").stdout
    told = json.loads(bedplate("image", "inspect", room / "d.json", "--json").stdout)["table"]
    assert told == {"problem": said}


def test_a_payload_that_is_not_there_hides_the_table_alone(room: Path) -> None:
    packed(room, TABLE)
    (room / "d.raw.zst").unlink()
    shown = bedplate("image", "inspect", room / "d.json").stdout
    assert "image      d, kind disk" in shown
    assert "table      not read: " in shown
