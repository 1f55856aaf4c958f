"""Plans for many machines: rendered from a list, and what they would come to."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from time import process_time
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.errors import PlanError
from agent.fleet.hosts import NO_TEXT, SIZES, read_hosts
from agent.fleet.outcome import compare, letter
from agent.fleet.render import overlaid, render
from agent.inventory.model import Content, Disk, Dmi, Firmware, Inventory, Marker, Nic, Tpm
from agent.plan.model import Plan
from tests.unit.plan.plans import encrypted

GB = 10**9
NOW = datetime(2026, 11, 23, tzinfo=UTC)
BASE = b"""\
version: 1
disks: {count: 2}
storage: {preset: stig-rhel9}
image: {manifest: https://images.example.com/debian13.json}
"""


def rendered(hosts: str, base: bytes = BASE, rollout: str = "autumn") -> dict[str, dict[str, Any]]:
    plans = render(base, read_hosts(hosts.encode(), "hosts.csv"), rollout, "plan.schema.json")
    return {one.plan.hostname: yaml.safe_load(one.text) for one in plans}


def problems(hosts: str, name: str = "hosts.csv", base: bytes = BASE) -> str:
    with pytest.raises(PlanError) as caught:
        render(base, read_hosts(hosts.encode(), name), "autumn", "plan.schema.json")
    return "\n".join(map(str, caught.value.problems))


HOSTS = "hostname,machine.serial,disks.where.serial[0],disks.where.serial[1]\n"
TWO = HOSTS + "db01,CZ1,0012,A2\ndb02,CZ2,,\n"


def test_a_host_has_the_bases_keys_and_its_own() -> None:
    plans = rendered(TWO)
    assert plans["db01"]["machine"] == {"serial": "CZ1"}
    assert plans["db01"]["storage"] == {"preset": "stig-rhel9"}
    assert plans["db01"]["disks"] == {"count": 2, "where": {"serial": ["0012", "A2"]}}
    assert plans["db02"]["disks"] == {"count": 2}, "an empty cell leaves the base's value"


def test_a_serial_that_looks_like_a_number_stays_as_it_was_written() -> None:
    assert rendered("hostname,machine.serial\n1e3,007\n")["1e3"]["machine"] == {"serial": "007"}


def test_yaml_hosts_may_be_as_deep_as_a_plan() -> None:
    hosts = "- {hostname: db01, machine: {serial: CZ1}, storage: {preset: plain}}\n"
    plans = render(BASE, read_hosts(hosts.encode(), "hosts.yaml"), "autumn", "s")
    assert yaml.safe_load(plans[0].text)["storage"] == {"preset": "plain"}


def test_the_same_roll_out_gives_the_same_ids_whatever_else_was_changed() -> None:
    before = rendered(TWO)
    after = rendered(TWO, BASE.replace(b"stig-rhel9", b"plain"))
    assert [plan["id"] for plan in before.values()] == [plan["id"] for plan in after.values()]
    assert before["db01"]["id"] != before["db02"]["id"]
    assert rendered(TWO, rollout="spring")["db01"]["id"] != before["db01"]["id"]


def test_every_problem_of_every_host_is_told_at_once() -> None:
    told = problems(HOSTS + "db 1,CZ1,,\ndb02,,,\n")
    assert "hosts.csv line 2: hostname" in told
    assert "hosts.csv line 3: machine" in told


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("db01,CZ1,,\ndb01,CZ2,,\n", "hostname: db01 is that of hosts.csv line 2 too"),
        ("db01,CZ1,,\ndb02,CZ1,,\n", "machine.serial: CZ1 is that of hosts.csv line 2 too"),
        ("db01,CZ1\n", "hosts.csv line 2: has 2 cells, the header has 4 columns"),
        ("db01,CZ1,,A2\n", "has a value for [1] and none for [0]"),
        ("# more of them\ndb01,CZ1,,\n\ndb 2,CZ2,,\n", "hosts.csv line 5: hostname"),
        ('db01,CZ1,"[A",\ndb02,CZ2,"{",\n', "line 3: disks.where.serial[0]: is not YAML"),
        ("", "names no host"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_with_its_line(rows: str, message: str) -> None:
    assert message in problems(HOSTS + rows)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("host name\ndb01\n", "hosts.csv", "is no path of a plan"),
        ("hostname,hostname\na,b\n", "hosts.csv", "has the column hostname twice"),
        ("hostname: db01\n", "hosts.yaml", "is neither a list of hosts"),
        ("- db01\n", "hosts.yaml", "hosts[0]: is not a mapping"),
        ("- {", "hosts.yaml", "is not YAML"),
        ("[" * 5000, "hosts.yaml", "is nested too deep"),
        ("{}: a", "hosts.yaml", "is not YAML"),
        ("- {[a]: b}", "hosts.yaml", "is not YAML"),
        ("- {hostname: a, hostname: b}", "hosts.yaml", "hostname is there twice"),
        ("hostname;machine.serial\na;b\n", "hosts.csv", "commas stand between columns"),
        ("hostname,hostname.x\na,b\n", "hosts.csv", "a value for hostname and one for hostname.x"),
        (
            "storage,storage.volumes[0].mount\nx,/srv\n",
            "hosts.csv",
            "line 2: has a value for storage and one for storage.volumes[0].mount",
        ),
        (
            'disks.where.serial,disks.where.serial[0]\n"[A, B]",C\n',
            "hosts.csv",
            "a value for disks.where.serial and one for disks.where.serial[0]: give one",
        ),
    ],
)
def test_a_file_that_is_no_list_of_hosts_is_refused(text: str, name: str, message: str) -> None:
    assert message in problems(text, name)


def test_the_order_of_columns_does_not_matter() -> None:
    plans = rendered(
        "disks.where.serial[1],machine.serial,disks.where.serial[0],hostname\nA2,CZ1,A1,db01\n"
    )
    assert plans["db01"]["disks"] == {"count": 2, "where": {"serial": ["A1", "A2"]}}


def test_a_line_that_begins_with_a_hash_inside_quotes_is_no_comment() -> None:
    hosts = (
        "hostname,machine.serial,configure.files[0].path,configure.files[0].content\n"
        '# one host\ndb01,CZ1,/etc/x,"one\n# two\nthree"\n'
    )
    (file,) = rendered(hosts)["db01"]["configure"]["files"]
    assert file["content"] == "one\n# two\nthree"


def test_cells_are_what_their_key_takes() -> None:
    columns = {
        "hostname": "db01",
        "machine.serial": "0012",
        "disks.count": "2",
        "disks.on_different_controllers": "true",
        "disks.where.rotational": "false",
        "storage.leave": "4294967296",
        "storage.volumes[0].mount": "/srv",
        "storage.volumes[0].grow": "3",
        "storage.volumes[0].max": "50%",
    }
    (plan,) = rendered(f"{','.join(columns)}\n{','.join(columns.values())}\n").values()
    assert plan["machine"] == {"serial": "0012"}
    assert plan["disks"] == {
        "count": 2, "on_different_controllers": True, "where": {"rotational": False},
    }  # fmt: skip
    assert plan["storage"] == {
        "preset": "stig-rhel9",
        "leave": 4294967296,
        "volumes": [{"mount": "/srv", "grow": 3, "max": "50%"}],
    }


def test_every_key_that_takes_a_number_or_a_truth_value_can_be_a_column() -> None:
    def bare(schema: Any) -> bool:
        kinds = [schema, *schema.get("anyOf", ())]
        kinds += [kind["items"] for kind in kinds if "items" in kind]
        return any(kind.get("type") in {"integer", "boolean"} for kind in kinds)

    parts = Plan.model_json_schema()["$defs"].values()
    named = {
        name
        for part in parts
        for name, schema in part.get("properties", {}).items()
        if bare(schema)
    }
    assert {"count", "pcrs", "size", "grow"} <= named
    assert named <= NO_TEXT | SIZES


def test_a_list_in_yaml_reads_bare_words_as_a_plan_does() -> None:
    hosts = "- &a {hostname: db01, machine: {mac: 52:54:00:12:34:56}}\n"
    hosts += "- {<<: *a, hostname: db02, machine: {mac: 52:54:00:12:34:57}, "
    hosts += "expires: 2030-01-01T00:00:00Z}"
    plans = render(BASE, read_hosts(hosts.encode(), "hosts.yaml"), "autumn", "s")
    assert [one.plan.machine.mac for one in plans] == ["52:54:00:12:34:56", "52:54:00:12:34:57"]
    assert plans[1].plan.expires is not None
    told = problems("- {hostname: db01, machine: {serial: 0012}}", "hosts.yaml")
    assert 'machine.serial: write it in quotes, "0012"' in told


CELLS = st.text('ab01,"[]{}#:&*!\n \t%', max_size=8)
COLUMNS = st.sampled_from(
    ["hostname", "machine.serial", "disks", "disks.where", "disks.where.serial[0]",
     "disks.where.serial", "storage.volumes[0].size", "storage.volumes[1]", "disks.count",
     "x[0][1].y", "a.b"]
)  # fmt: skip


@given(st.lists(COLUMNS, max_size=5), st.lists(st.lists(CELLS, max_size=5), max_size=4))
def test_any_list_of_hosts_gives_plans_or_problems(
    columns: list[str], rows: list[list[str]]
) -> None:
    table = io.StringIO()
    csv.writer(table).writerows([columns, *rows])
    with contextlib.suppress(PlanError):
        render(BASE, read_hosts(table.getvalue().encode(), "hosts.csv"), "autumn", "s")


@given(st.text('-ab: {}[],\n"&*<!01#', max_size=60))
def test_any_text_as_a_list_in_yaml_gives_plans_or_problems(text: str) -> None:
    with contextlib.suppress(PlanError):
        render(BASE, read_hosts(text.encode(), "hosts.yaml"), "autumn", "s")


@given(
    st.recursive(st.integers(), lambda deeper: st.dictionaries(st.text("ab", max_size=1), deeper))
)
def test_laying_nothing_over_changes_nothing(base: object) -> None:
    if isinstance(base, dict):
        assert overlaid(base, {}) == base
        assert overlaid({}, base) == base
        assert overlaid(base, base) == base


def machine(number: int, size: int = 960 * GB, **more: object) -> Inventory:
    disks = tuple(
        Disk(path=f"/dev/sd{place}", serial=f"S{number}{place}", size=size, transport="sata")
        for place in "ab"
    )
    values = {
        "dmi": Dmi(serial=f"CZ{number}"),
        "firmware": Firmware(uefi=True),
        "memory": 4 * GB,
        "nics": (Nic(name="eno1", mac=f"52:54:00:00:00:{number:02x}"),),
        "disks": disks,
        **more,
    }
    return Inventory.model_validate(values)


def fleet_of(count: int) -> str:
    return "hostname,machine.serial\n" + "".join(f"db{n},CZ{n}\n" for n in range(count))


def read(hosts: str) -> list[tuple[str, Plan]]:
    plans = render(BASE, read_hosts(hosts.encode(), "hosts.csv"), "autumn", "s")
    return [(one.where, one.plan) for one in plans]


def test_machines_that_come_out_alike_are_one_group() -> None:
    plans = read(fleet_of(6))
    machines = [machine(n, 480 * GB if n == 3 else 960 * GB) for n in range(6)]
    fleet = compare(plans, machines, NOW)
    assert [len(group.members) for group in fleet.groups] == [5, 1]
    assert fleet.groups[1].members[0].hostname == "db3"
    different = list(fleet.groups[1].differences(fleet.groups[0]))
    assert any(line.startswith("- disk 1") and "894.1" in line for line in different)
    assert any(line.startswith("+ disk 1") and "447.0" in line for line in different)
    assert fleet.works


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_bytes(BASE)
    (tmp_path / "hosts.csv").write_text(fleet_of(4))
    (tmp_path / "machines").mkdir()
    for number in range(4):
        record(tmp_path, number, machine(number))
    done = bedplate(
        "plan", "render", tmp_path / "base.yaml", tmp_path / "hosts.csv",
        "-d", tmp_path / "plans", "--rollout", "autumn",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return tmp_path


def record(room: Path, number: int, found: Inventory) -> None:
    (room / f"machines/{number}.json").write_text(found.model_dump_json())


def bedplate(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def preview(room: Path, *more: str) -> Result:
    where = ("--fleet", room / "plans", "--inventories", room / "machines")
    return bedplate("preview", *where, *more)


def test_a_fleet_that_works_is_shown_once_and_exits_with_0(room: Path) -> None:
    done = preview(room)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("4 machines: layout A\n")
    assert "/var/log/audit 10.0 GiB xfs nodev,nosuid,noexec" in done.stdout
    assert "4 plans, and each can be laid out on its machine" in done.stdout
    told = json.loads(preview(room, "--json").stdout)
    assert [len(group["hosts"]) for group in told["groups"]] == [4]
    assert told["problems"] == []


def test_one_plan_that_cannot_work_makes_the_fleet_fail_by_name(room: Path) -> None:
    record(room, 2, machine(2, size=16 * GB))
    done = preview(room)
    assert done.exit_code == 4
    assert "3 machines: layout A" in done.stdout
    assert "1 cannot be carried out: db2" in done.stdout
    assert "db2.yaml" in done.stderr


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"firmware": Firmware(uefi=False)}, "db2.yaml: machine: was booted by a legacy BIOS"),
        ({"memory": 10**8}, "db2.yaml: machine: has 95 MiB of memory"),
    ],
)
def test_what_the_machine_will_refuse_for_certain_makes_the_fleet_fail(
    room: Path, facts: dict[str, Any], told: str
) -> None:
    record(room, 2, machine(2, **facts))
    done = preview(room)
    assert done.exit_code == 4
    assert "1 cannot be carried out: db2" in done.stdout
    assert told in done.stderr


def test_a_plan_that_has_expired_makes_the_fleet_fail(room: Path) -> None:
    plan = room / "plans/db1.yaml"
    plan.write_text(plan.read_text() + "expires: 2025-01-01T00:00:00Z\n")
    done = preview(room)
    assert done.exit_code == 4
    assert "db1.yaml: expires: the plan expired at 2025-01-01T00:00:00Z" in done.stderr


def test_a_fleet_that_needs_tpms_fails_by_the_machine_that_has_none(room: Path) -> None:
    sealed = yaml.safe_dump({"encryption": {**encrypted()["encryption"], "unlock": "tpm2"}})
    for plan in (room / "plans").iterdir():
        plan.write_text(
            plan.read_text() + sealed + yaml.safe_dump({"report": encrypted()["report"]})
        )
    for number in range(4):
        record(room, number, machine(number, tpm=None if number == 3 else Tpm(device="/dev/tpm0")))
    done = preview(room)
    assert done.exit_code == 4
    assert "3 machines: layout A" in done.stdout
    assert "db3.yaml: encryption.unlock: tpm2 needs a TPM 2.0, the machine has none" in done.stderr


def test_a_thousand_plans_take_less_than_five_seconds_of_a_processor(room: Path) -> None:
    (room / "plans/db0.yaml").unlink()
    text, found = (room / "plans/db1.yaml").read_text(), machine(1).model_dump_json()
    for number in range(250):
        (room / f"plans/db{number}.yaml").write_text(
            text.replace("db1", f"db{number}")
            .replace("CZ1", f"CZ{number}")
            .replace(
                text.partition("id: ")[2].partition("\n")[0], str(uuid5(NAMESPACE_DNS, f"{number}"))
            )
        )
        (room / f"machines/{number}.json").write_text(found.replace('"CZ1"', f'"CZ{number}"'))
    before = process_time()
    done = preview(room)
    assert process_time() - before < 5 / 4
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("250 machines: layout A\n")


def test_machines_that_are_done_are_counted_and_lose_nothing(room: Path) -> None:
    plan = yaml.safe_load((room / "plans/db2.yaml").read_text())
    marker = {"plan": plan["id"], "hostname": "db2", "machine": "CZ2", "finished": "2026"}
    content = Content(device="/dev/sda1", kind="ext4", size=GB, partition_name="bedplate-root")
    first, second = machine(2).disks
    installed = first.model_copy(update={"marker": Marker(**marker), "content": (content,)})
    record(room, 2, machine(2, disks=(installed, second)))
    done = preview(room)
    assert done.exit_code == 0, done.stderr
    assert "4 machines: layout A; 1 of them are installed by these plans already" in done.stdout
    assert "to lose" not in done.stdout
    told = json.loads(preview(room, "--json").stdout)
    assert told["groups"][0]["installed_already"] == ["db2"]


def test_a_container_is_named_as_an_image_is(room: Path) -> None:
    digest = "registry.example.com/os@sha256:" + "0" * 64
    for plan in (room / "plans").iterdir():
        text = plan.read_text()
        plan.write_text(
            text.replace("manifest: https://images.example.com/debian13.json", f"oci: {digest}")
        )
    assert f"image oci://{digest}" in preview(room).stdout


def test_a_plan_whose_machine_nobody_recorded_is_a_problem(room: Path) -> None:
    (room / "machines/1.json").unlink()
    done = preview(room)
    assert done.exit_code == 4
    assert "none of the recorded machines has serial CZ1" in done.stderr


def test_two_plans_for_one_machine_are_a_problem(room: Path) -> None:
    text = (room / "plans/db1.yaml").read_text()
    (room / "plans/other.yaml").write_text(text.replace("hostname: db1", "hostname: other"))
    done = preview(room)
    assert done.exit_code == 4
    assert "machine.serial: CZ1 is that of db1.yaml too" in done.stderr


def test_what_would_be_lost_is_counted(room: Path) -> None:
    spare = Disk(
        path="/dev/sda",
        serial="S0a",
        size=960 * GB,
        transport="sata",
        content=(Content(device="/dev/sda1", kind="ext4", size=GB, label="db"),),
    )
    other = machine(0).disks[1]
    for number in range(4):
        record(room, number, machine(number))
    plan = room / "plans/db0.yaml"
    plan.write_text(plan.read_text().replace("count: 2", "count: 2\n  erase: any"))
    record(room, 0, machine(0, disks=(spare, other)))
    done = preview(room)
    assert "1 of them have something on their disks to lose" in done.stdout


def test_a_machine_without_a_plan_is_only_told_of(room: Path) -> None:
    record(room, 9, machine(9))
    done = preview(room)
    assert done.exit_code == 0
    assert "1 recorded machines have no plan: CZ9" in done.stdout


def test_a_plan_that_cannot_be_read_does_not_hide_the_others(room: Path) -> None:
    (room / "plans/broken.yaml").write_text("version: 1\n")
    done = preview(room)
    assert done.exit_code == 4
    assert "broken.yaml" in done.stderr
    assert "4 machines: layout A" in done.stdout


def test_a_machine_that_cannot_be_read_does_not_hide_the_others(room: Path) -> None:
    (room / "machines/2.json").write_text("{")
    done = preview(room)
    assert done.exit_code == 4
    assert "3 machines: layout A" in done.stdout
    assert "machines/2.json: is no machine" in done.stderr
    assert "db2.yaml: machine: none of the recorded machines has serial CZ2" in done.stderr


def test_plans_of_hosts_that_are_no_longer_listed_are_told_of(room: Path) -> None:
    (room / "hosts.csv").write_text(fleet_of(2))
    done = bedplate(
        "plan", "render", room / "base.yaml", room / "hosts.csv",
        "-d", room / "plans", "--rollout", "autumn",
    )  # fmt: skip
    assert done.exit_code == 0
    assert f"warning: 2 other plans in {room}/plans: db2.yaml, db3.yaml" in done.stderr


def test_a_signature_of_what_a_plan_was_before_is_told_of(room: Path) -> None:
    again = (
        "plan", "render", room / "base.yaml", room / "hosts.csv",
        "-d", room / "plans", "--rollout", "autumn",
    )  # fmt: skip
    (room / "plans/db1.yaml.sig").write_bytes(b"0" * 64)
    assert "signature" not in bedplate(*again).stderr, "the plan is the same as before"
    (room / "base.yaml").write_bytes(BASE.replace(b"stig-rhel9", b"plain"))
    told = bedplate(*again).stderr
    assert f"warning: 1 plan with the signature of an older one in {room}/plans: db1.yaml" in told


def test_plans_are_validated_without_a_machine(room: Path) -> None:
    assert "4 plans: nothing is wrong" in bedplate("plan", "validate", room / "plans").stdout
    told = json.loads(bedplate("plan", "validate", room / "plans/db1.yaml", "--json").stdout)
    assert [one["hostname"] for one in told] == ["db1"]
    (room / "plans/db1.yaml").write_text("version: 1\n")
    (room / "plans/same.yml").write_text((room / "plans/db0.yaml").read_text())
    done = bedplate("plan", "validate", room / "plans")
    assert done.exit_code == 3
    assert "db1.yaml: machine: is missing" in done.stderr
    assert "same.yml: hostname: db0 is that of" in done.stderr
    (room / "none").mkdir()
    assert bedplate("plan", "validate", room / "none").exit_code == 3
    (room / "none/a.yaml").mkdir()
    assert "cannot be read: is a directory" in bedplate("plan", "validate", room / "none").stderr


def test_presets_of_a_site_are_known_wherever_plans_are_read(room: Path) -> None:
    site = room / "presets"
    site.mkdir()
    (site / "ours.yaml").write_text("name: ours\nextends: stig-rhel9\nwithout: [/home]\n")
    base = room / "base.yaml"
    base.write_bytes(BASE.replace(b"stig-rhel9", b"ours"))
    render_it = (
        "plan", "render", base, room / "hosts.csv", "-d", room / "plans", "--rollout", "winter",
    )  # fmt: skip
    assert '"ours" is not one of plain' in bedplate(*render_it).stderr
    assert bedplate(*render_it, "--site", site).exit_code == 0
    assert '"ours" is not one of plain' in preview(room).stderr
    known = preview(room, "--site", str(site))
    assert known.exit_code == 0, known.stderr
    assert "deviates from stig-rhel9: RHEL-09-231010 (/home: no file system" in known.stdout
    plan = room / "plans/db1.yaml"
    one = ("preview", plan, "--inventory", room / "machines/1.json", "--offline")
    assert bedplate(*one).exit_code == 3
    assert bedplate(*one, "--site", site).exit_code == 0
    by_environment = CliRunner().invoke(
        main, list(map(str, one)), env={"BEDPLATE_PRESETS": str(site)}
    )
    assert by_environment.exit_code == 0


def test_preview_says_how_it_is_called() -> None:
    done = bedplate("preview")
    assert done.exit_code == 2
    assert "--fleet PLANS together with --inventories MACHINES" in done.stderr


def test_groups_are_lettered_as_columns_of_a_table_are() -> None:
    assert [letter(number) for number in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]
