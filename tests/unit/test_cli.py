"""The command line: what it prints, where, and with which exit status."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli import main
from agent.cli.approve import approval, names
from agent.errors import AgentError, MachineError, PlanError, Problem, StepError
from agent.inventory.model import Content, Firmware, Inventory
from agent.layout.extents import GIB
from agent.layout.model import Layout
from agent.payload.document import parse as parse_manifest
from agent.payload.sign import load_trusted, verify
from agent.resolve import lay_out
from tests.unit.fakes import DISKS, SERVER, FakeHost, order, plan
from tests.unit.test_sequence import decided

COMMANDS = sorted(main.commands)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A directory with a plan, and the machine it is for as it was recorded."""
    (tmp_path / "plan.yaml").write_bytes(order())
    record(tmp_path, SERVER)
    return tmp_path


def record(room: Path, machine: Inventory) -> None:
    text = json.dumps(machine.model_dump(mode="json"))
    (room / "machine.json").write_text(text)


def bedplate(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    """Run the command; what it foresees never leaves it as an exception."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def preview(room: Path, *more: str) -> Result:
    return bedplate("preview", room / "plan.yaml", "--inventory", room / "machine.json", *more)


def test_a_preview_ends_with_what_the_machine_will_refuse(room: Path) -> None:
    record(room, SERVER.model_copy(update={"firmware": Firmware(uefi=False), "tpm": None}))
    done = preview(room, "--offline")
    assert done.exit_code == 4
    assert done.stdout.splitlines()[-1] == "then: reboot"
    assert "machine: was booted by a legacy BIOS" in done.stderr
    assert "needs a TPM 2.0, the machine has none" in done.stderr
    as_json = preview(room, "--offline", "--json")
    assert as_json.exit_code == 4
    refused = json.loads(as_json.stdout)["refused"]
    assert [one["where"] for one in refused] == ["machine", "encryption.unlock"]


# --- help ---


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_says_what_it_is_for(command: str) -> None:
    done = bedplate(command, "--help")
    assert done.exit_code == 0
    words = done.stdout.split()
    assert words[:3] == ["Usage:", "main", command]
    assert len(words) > 20
    assert "..." not in main.commands[command].get_short_help_str(200)


def test_the_commands_of_the_manual_are_there() -> None:
    manual = (
        "autoinstall check discover escrow events image install inventory keygen keys media "
        "operator pack plan preset preview redfish serve token watch"
    )
    assert " ".join(COMMANDS) == manual
    text = bedplate("--help").stdout
    assert "Exit status" in text
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", ["inventory", "preview", "check", "keygen", "pack"])
def test_every_command_that_prints_data_prints_it_as_json_too(command: str) -> None:
    assert "--json" in bedplate(command, "--help").stdout


# --- preview ---


def test_preview_shows_the_layout_for_people(room: Path) -> None:
    done = preview(room)
    assert (done.exit_code, done.stderr) == (0, "")
    layout = expected()
    for text in (
        "plan 0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11 for db01.example.com",
        "disk /dev/vda (no model, serial SN1)  64.0 GiB",
        "mirror /dev/md/root  RAID1 of 2, metadata 1.2",
        "unlock: tpm2 and tang",
        *(f" {volume.filesystem.mount} " for volume in layout.group.volumes),
        *(str(part.partuuid) for disk in layout.disks for part in disk.partitions),
    ):
        assert text in done.stdout


def expected(machine: Inventory = SERVER, **changes: Any) -> Layout:
    layout = lay_out(plan(**changes), machine)
    assert isinstance(layout, Layout)
    return layout


def test_preview_as_json_has_the_very_bytes_of_the_layout(room: Path) -> None:
    shown = json.loads(preview(room, "--json").stdout)
    layout = expected()
    assert shown["hostname"] == "db01.example.com"
    assert [
        (part["start"], part["size"], part["partuuid"])
        for disk in shown["layout"]["disks"]
        for part in disk["partitions"]
    ] == [
        (part.start, part.size, str(part.partuuid))
        for disk in layout.disks
        for part in disk.partitions
    ]
    assert {volume["mount"]: volume["size"] for volume in shown["layout"]["volumes"]} == {
        volume.filesystem.mount: volume.size for volume in layout.group.volumes
    }
    assert shown["layout"]["volume_group"]["free"] == layout.group.free


def test_preview_names_what_would_be_lost(room: Path) -> None:
    old = Content(device="/dev/vda1", kind="ext4", label="old", size=GIB)
    disks = (DISKS[0].model_copy(update={"content": (old,)}), DISKS[1])
    record(room, SERVER.model_copy(update={"disks": disks}))
    (room / "plan.yaml").write_bytes(order(disks={"count": 2, "erase": "any"}))
    assert 'LOST: /dev/vda1: ext4, 1.0 GiB, label "old"' in preview(room).stdout
    shown = json.loads(preview(room, "--json").stdout)
    assert shown["layout"]["disks"][0]["lost"][0]["label"] == "old"


def test_a_plan_may_come_from_stdin(room: Path) -> None:
    done = bedplate("preview", "-", "--inventory", room / "machine.json", stdin=order())
    assert done.exit_code == 0


def test_preview_loads_no_storage_library_and_no_server(room: Path) -> None:
    program = (
        "import sys; from agent.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "sys.exit(bool({'blivet', 'gi', 'starlette', 'uvicorn', 'rich'} & set(sys.modules)))"
    )
    # Where they are not installed, importing them would fail too.
    done = subprocess.run(
        [sys.executable, "-c", program, "preview", "plan.yaml", "--inventory", "machine.json"],
        cwd=room,
        env={"PYTHONPATH": os.fspath(Path(__file__).parents[2]), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "volume group vg0" in done.stdout


_mounts = st.sampled_from(["/srv", "/var/lib/pgsql", "/root", "/opt/data", "/snapshots"])
_volumes = st.lists(
    st.fixed_dictionaries(
        {"mount": _mounts, "size": st.sampled_from(["300 MiB", "7 GiB", "40%", "1 TiB"])}
    ),
    max_size=3,
    unique_by=lambda volume: volume["mount"],
)


@settings(max_examples=15, deadline=None)
@given(_volumes, st.lists(st.integers(1, 200), max_size=3), st.sampled_from([1, 2]), st.booleans())
def test_preview_as_json_is_json_whatever_the_plan_and_the_machine(
    volumes: list[dict[str, Any]], sizes: list[int], count: int, encrypted: bool
) -> None:
    disks = [
        DISKS[0].model_copy(update={"path": f"/dev/vd{n}", "serial": f"S{n}", "size": size * GIB})
        for n, size in enumerate(sizes)
    ]
    machine = SERVER.model_copy(update={"disks": tuple(disks)})
    changes: dict[str, Any] = {
        "unlock": "tpm2" if encrypted else None,
        "disks": {"count": count},
        "storage": {"preset": "plain", "volumes": volumes},
    }
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "plan.yaml").write_bytes(order(**changes))
        record(Path(place), machine)
        done = preview(Path(place), "--json")
    shown = json.loads(done.stdout)
    found = lay_out(plan(**changes), machine)
    if isinstance(found, Layout):
        assert done.exit_code == 0
        assert [volume["size"] for volume in shown["layout"]["volumes"]] == [
            volume.size for volume in found.group.volumes
        ]
    else:
        assert done.exit_code == 4
        assert isinstance(found, list)
        assert [problem["where"] for problem in shown["problems"]] == [p.where for p in found]


# --- what is wrong ---


def test_one_problem_is_a_sentence_and_several_are_a_list(room: Path) -> None:
    record(room, SERVER.model_copy(update={"disks": ()}))
    done = preview(room)
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr == (
        "bedplate: disks: 0 match, the plan counts 2; this machine has no disk\n"
    )
    (room / "plan.yaml").write_text("version: 2\nhostnam: x\n")
    done = preview(room)
    assert done.exit_code == 3
    first, *others = done.stderr.splitlines()
    assert first == f"{len(others)} problems; nothing was touched:"
    assert any(line.startswith("  hostnam: unknown key") for line in others)


def test_as_json_a_failure_is_json_too_with_every_problem(room: Path) -> None:
    (room / "plan.yaml").write_text("version: 2\nhostnam: x\n")
    done = preview(room, "--json")
    shown = json.loads(done.stdout)
    assert (done.exit_code, shown["status"], done.stderr) == (3, 3, "")
    assert "hostnam" in {problem["where"] for problem in shown["problems"]}
    assert shown["error"].splitlines() == [
        f"{problem['where']}: {problem['message']}" for problem in shown["problems"]
    ]


@pytest.mark.parametrize(
    ("error", "status", "problems"),
    [
        (PlanError([Problem("id", "is missing")]), 3, [{"where": "id", "message": "is missing"}]),
        (MachineError([Problem("", "no")]), 4, [{"where": "", "message": "no"}]),
        (StepError("root: is too small"), 5, []),
    ],
)
def test_each_kind_of_failure_has_its_exit_status(
    error: AgentError, status: int, problems: list[dict[str, str]]
) -> None:
    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    @click.pass_context
    def failing(ctx: click.Context, *, as_json: bool) -> None:
        ctx.find_root().obj = as_json
        raise error

    group = type(main)(commands={"failing": failing})
    plain = CliRunner().invoke(group, ["failing"])
    assert (plain.exit_code, plain.stdout) == (status, "")
    assert plain.stderr == f"bedplate: {error}\n"
    done = CliRunner().invoke(group, ["failing", "--json"])
    shown = {"error": str(error), "problems": problems, "status": status}
    assert (done.exit_code, json.loads(done.stdout)) == (status, shown)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "machine.json: is no machine: write one by bedplate inventory --json"),
        (b"\xff\xfe", "machine.json: is no machine"),
        (b'{"disks": []}', "machine.json: firmware: is missing"),
        (b"[]", "machine.json: is no machine"),
        (
            b'{"firmware": {"uefi": true}, "memory": 1, "disks": [{"path": "/dev/vda"}]}',
            "machine.json: disks.0.size: is missing",
        ),
    ],
)
def test_a_record_that_is_none_is_named_with_what_is_wrong_in_it(
    room: Path, content: bytes, message: str
) -> None:
    (room / "machine.json").write_bytes(content)
    done = preview(room)
    assert done.exit_code == 3
    assert message in done.stderr
    assert "pydantic" not in done.stderr
    assert json.loads(preview(room, "--json").stdout)["status"] == 3


def test_an_endless_list_of_faults_in_a_record_ends(room: Path) -> None:
    (room / "machine.json").write_text(json.dumps({"firmware": {}, "disks": [{}] * 500}))
    assert len(preview(room).stderr.splitlines()) < 15


@pytest.mark.parametrize(
    "line",
    [
        "preview",
        "preview {room}/nothing.yaml",
        "preview {room}",
        "preview {room}/plan.yaml --inventory {room}/nothing.json",
        "install {room}/nothing.yaml",
        "pack {room}/nothing.tar --name x --key y",
        "pack {room}/plan.yaml --name x --key y --level 40",
        "serve {room}/nothing",
        "dance",
    ],
)
def test_wrong_usage_has_its_own_exit_status(room: Path, line: str) -> None:
    done = bedplate(*line.format(room=room).split())
    assert done.exit_code == 2
    assert "Usage:" in done.stderr


def test_a_plan_beyond_all_measure_is_refused(room: Path) -> None:
    (room / "plan.yaml").write_bytes(b"# " + b"x" * (1 << 20))
    done = preview(room)
    assert done.exit_code == 3
    assert "at most 1048576 are read" in done.stderr


# --- the order to erase ---


def test_a_disk_may_be_named_by_any_of_its_names(tmp_path: Path) -> None:
    order = decided(tmp_path)
    assert names(DISKS[1]) == {"/dev/nvme0n1", "SN2", "eui.2"}
    approval(["SN1", "eui.2"])(order)
    approval(["/dev/vda", "/dev/nvme0n1", "SN9"])(order)


def test_a_disk_that_was_not_named_is_not_erased_where_nobody_can_be_asked(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        approval(["SN2"])(decided(tmp_path))
    (problem,) = caught.value.problems
    assert problem.where == "/dev/vda (no model, serial SN1)"
    assert problem.message == "would be erased (it is blank): say so with --erase SN1"
    with pytest.raises(MachineError) as caught:
        approval([])(decided(tmp_path))
    assert len(caught.value.problems) == 2


# --- keys and images ---


def test_keygen_makes_a_pair_and_keeps_the_private_key_private(tmp_path: Path) -> None:
    shown = json.loads(bedplate("keygen", "lab", "-d", tmp_path / "keys", "--json").stdout)
    private, public = Path(shown["private"]), Path(shown["public"])
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    (key,) = load_trusted([public])
    assert key.id == shown["id"]
    again = bedplate("keygen", "lab", "-d", tmp_path / "keys")
    assert again.exit_code == 3
    assert "is there already" in again.stderr


def test_keygen_tells_people_which_file_is_which(tmp_path: Path) -> None:
    first, second = bedplate("keygen", "-d", tmp_path).stdout.splitlines()
    assert first == f"{tmp_path}/image.key  private, keep it"
    assert second.startswith(f"{tmp_path}/image.pub  public, key id ")


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in {
            "etc/os-release": b'ID=debian\nVERSION_ID="13"\n',
            "boot/vmlinuz-6.12.1": b"kernel",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_pack_makes_an_image_that_its_key_vouches_for(tmp_path: Path) -> None:
    bedplate("keygen", "-d", tmp_path)
    done = bedplate(
        *("pack", "-", "--name", "tiny", "--key", tmp_path / "image.key"),
        *("-d", tmp_path / "images", "--json", "--url", "https://cdn.example.com/tiny.tar.zst"),
        stdin=archive(),
    )
    shown = json.loads(done.stdout)
    assert done.exit_code == 0
    document = Path(shown["manifest"]).read_bytes()
    verify(document, Path(shown["signature"]).read_bytes(), load_trusted([tmp_path / "image.pub"]))
    manifest = parse_manifest(document)
    assert manifest.payload.urls == ("https://cdn.example.com/tiny.tar.zst",)
    assert (shown["size"], shown["sha256"]) == (manifest.size, manifest.sha256)
    assert shown["stored"] == Path(shown["payload"]).stat().st_size
    assert shown["chunks"] == len(manifest.chunks)


def test_pack_tells_people_what_it_found(tmp_path: Path) -> None:
    bedplate("keygen", "-d", tmp_path)
    (tmp_path / "root.tar").write_bytes(archive())
    key = tmp_path / "image.key"
    text = bedplate("pack", tmp_path / "root.tar", "-n", "tiny", "-k", key, "-d", tmp_path).stdout
    assert f"{tmp_path}/tiny.json: debian 13, kernel 6.12.1" in text


@pytest.mark.parametrize("command", ["keygen", "pack"])
def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    more = ("-", "--name", "x", "--key", "y") if command == "pack" else ()
    done = bedplate(command, *more, "-d", tmp_path / "file/below", stdin=archive())
    assert done.exit_code == 3
    assert f"bedplate: {tmp_path}/file/below: cannot be made: not a directory" in done.stderr


def test_what_is_no_archive_and_what_is_no_key_is_named(tmp_path: Path) -> None:
    bedplate("keygen", "-d", tmp_path)
    key = tmp_path / "image.key"
    done = bedplate("pack", "-", "-n", "x", "-k", key, "-d", tmp_path, stdin=b"no archive" * 99)
    assert (done.exit_code, "bedplate: " in done.stderr) == (3, True)
    done = bedplate("pack", "-", "-n", "x", "-k", tmp_path / "no.key", stdin=archive())
    assert done.exit_code == 3
    assert "no.key: cannot be read" in done.stderr


# --- the machine itself ---


def test_a_recorded_inventory_is_read_back_as_it_was(room: Path, tmp_path: Path) -> None:
    from agent.cli.recorded import read_recorded
    from agent.cli.show import show_inventory

    assert read_recorded(room / "machine.json") == SERVER

    @click.command()
    def show() -> None:
        show_inventory(FakeHost(tmp_path).inventory())

    text = CliRunner().invoke(show).stdout
    for part in ("serial CZ1234", "UEFI", "4.0 GiB, 2 CPUs", "52:54:00:12:34:56", "blank"):
        assert part in text
