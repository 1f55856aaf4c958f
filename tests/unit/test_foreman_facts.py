"""Machines as Foreman and Facter know them: what is known, and what is said to be unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli import main
from agent.foreman.facts import facts as told_to_foreman
from agent.inventory.foreman import FIRMWARE, TPM, machines, of_facts
from agent.inventory.model import Inventory
from agent.inventory.unknown import notes
from agent.layout.model import Layout
from agent.plan.model import Plan
from agent.resolve import lay_out
from tests.unit.fakes import SERVER, plan
from tests.unit.plan import plans

GB = 10**9
FLAT = {
    "facterversion": "2.4.6",
    "blockdevices": "sda,sdb,sr0,loop0",
    "blockdevice_sda_size": "480103981056",
    "blockdevice_sda_model": "INTEL SSDSC2KB48",
    "blockdevice_sdb_size": 480103981056,
    "blockdevice_sr0_size": "1073741312",
    "blockdevice_loop0_size": "100000",
    "interfaces": "eno1,eno2,lo",
    "macaddress_eno1": "52:54:00:AA:BB:01",
    "ipaddress_eno1": "10.0.0.5",
    "macaddress_eno2": "52:54:00:AA:BB:02",
    "manufacturer": "Dell Inc.",
    "productname": "PowerEdge R650",
    "serialnumber": "CZ1234",
    "uuid": "4C4C4544-0042-3510-8051-B4C04F4D3233",
    "memorysize_mb": "257603.71",
    "processorcount": "64",
}
STRUCTURED: dict[str, Any] = {
    "facterversion": "4.5.1",
    "disks": {
        "nvme0n1": {"model": "SAMSUNG PM9A3", "serial": "S1", "size_bytes": 960197124096},
        "nvme1n1": {"model": "SAMSUNG PM9A3", "serial": "S2", "size_bytes": 960197124096},
        "sda": {"type": "hdd", "serial": "H1", "wwn": "0x5000c500", "size_bytes": 4000787030016},
        "sdb": {"vendor": "Generic", "model": "Card Reader", "size_bytes": 0},
    },
    "dmi": {
        "manufacturer": "Dell Inc.",
        "product": {
            "name": "PowerEdge R650",
            "serial_number": "CZ1234",
            "uuid": "4c4c4544-0042-3510-8051-b4c04f4d3233",
        },
    },
    "memory": {"system": {"total_bytes": 270118019072}},
    "processors": {"count": 64},
    "networking": {
        "interfaces": {
            "eno1": {"mac": "52:54:00:aa:bb:01", "ip": "10.0.0.5"},
            "lo": {"ip": "127.0.0.1"},
            "docker0": {"mac": "02:42:00:00:00:01"},
            "eno1.100": {"mac": "52:54:00:aa:bb:01"},
        }
    },
}


def joined(facts: dict[str, Any], above: str = "") -> dict[str, str]:
    """Return facts as Foreman's API has them: nested names joined, every value text."""
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= joined(value, f"{above}{name}::")
        else:
            flat[f"{above}{name}"] = str(value)
    return flat


def test_flat_facts_name_disks_cards_and_the_board() -> None:
    machine = of_facts(FLAT)
    assert [(disk.path, disk.size, disk.model) for disk in machine.disks] == [
        ("/dev/sda", 480103981056, "INTEL SSDSC2KB48"),
        ("/dev/sdb", 480103981056, None),
    ]
    assert [nic.mac for nic in machine.nics] == ["52:54:00:aa:bb:01", "52:54:00:aa:bb:02"]
    assert (machine.name, machine.dmi.product) == ("CZ1234", "PowerEdge R650")
    assert str(machine.dmi.uuid) == "4c4c4544-0042-3510-8051-b4c04f4d3233"
    assert machine.cpus == 64
    assert machine.memory // GB == 270


@pytest.mark.parametrize("form", [dict, joined, lambda facts: {"facts": facts}])
def test_structured_facts_say_more_in_every_form_they_come_in(form: Any) -> None:
    ((_, machine),) = machines(form(STRUCTURED))
    nvme, other, spinning = machine.disks
    assert (nvme.serial, nvme.transport, nvme.rotational) == ("S1", "nvme", False)
    assert other.serial == "S2"
    assert (spinning.serial, spinning.wwn, spinning.rotational) == ("H1", "0x5000c500", True)
    assert [nic.name for nic in machine.nics] == ["eno1"]
    assert machine.memory == 270118019072


def test_an_answer_of_foreman_s_api_has_many_machines() -> None:
    answer = {"total": 2, "results": {"db01": joined(STRUCTURED), "db02": FLAT}}
    assert [name for name, _ in machines(answer)] == ["db01", "db02"]


def test_what_facts_cannot_know_is_said() -> None:
    machine = of_facts(STRUCTURED)
    assert {FIRMWARE, TPM} <= set(machine.unknown)
    nvme, _, spinning = machine.disks
    assert "transport" in spinning.unknown, "SATA, SAS and USB are all called sd"
    assert "transport" not in nvme.unknown
    assert all({"content", "sector_size", "controller"} <= {*d.unknown} for d in machine.disks)
    told = list(notes(machine))
    assert "what lies on it: /dev/nvme0n1, /dev/nvme1n1, /dev/sda" in told


def test_what_our_own_discovery_sent_is_known() -> None:
    machine = of_facts(told_to_foreman(SERVER, SERVER.nics[0].mac))
    assert machine.unknown == ()
    assert machine.firmware.uefi
    assert machine.tpm is not None
    assert machine.name == SERVER.name
    assert [(d.path, d.serial, d.size) for d in machine.disks] == [
        (d.path, d.serial, d.size) for d in SERVER.disks
    ]


def test_a_disk_without_a_size_names_the_fact() -> None:
    broken = {key: value for key, value in FLAT.items() if key != "blockdevice_sdb_size"}
    with pytest.raises(ValueError, match=r"^db01: blockdevice_sdb_size: is missing or no number"):
        list(machines({"results": {"db01": broken}}))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
KNOWN = st.sampled_from([*FLAT, *joined(STRUCTURED), "disks", "networking", "dmi"])


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(KNOWN, ANY, max_size=8))
def test_any_facts_are_a_machine_or_name_the_fact_that_is_wrong(facts: dict[str, Any]) -> None:
    error = ""
    try:
        machine = of_facts(facts)
        assert all(disk.size > 0 for disk in machine.disks)
    except ValueError as wrong:
        error = str(wrong)
    assert error == "" or "size" in error


# --- a plan on such a machine


def wanted(**where: Any) -> Plan:
    return plan(disks={"count": 2, "where": where}, storage={"preset": "stig-rhel9"})


def test_the_layout_is_the_one_that_the_machine_itself_will_get() -> None:
    known = of_facts(told_to_foreman(SERVER, SERVER.nics[0].mac))
    there, here = lay_out(plan(), known), lay_out(plan(), SERVER)
    assert isinstance(there, Layout)
    assert isinstance(here, Layout)
    assert [laid.partitions for laid in there.disks] == [laid.partitions for laid in here.disks]
    assert there.group == here.group


@pytest.mark.parametrize(
    ("where", "fact"),
    [
        (
            {"transport": "sata"},
            "disks.where.transport: the facts of CZ1234 do not say how it is a",
        ),
        (
            {"rotational": False},
            "disks.where.rotational: the facts of CZ1234 do not say whether it",
        ),
        (
            {"serial": ["A", "B"]},
            "disks.where.serial: the facts of CZ1234 do not say its serial nu",
        ),
        (
            {"path": "/dev/disk/by-path/*"},
            "disks.where.path: the facts of CZ1234 do not say its li",
        ),
    ],
)
def test_a_plan_that_needs_what_is_not_known_is_refused_by_the_fact(
    where: dict[str, Any], fact: str
) -> None:
    problems = lay_out(wanted(**where), of_facts(FLAT))
    assert isinstance(problems, list)
    assert len(problems) == 2, "one for each disk"
    assert str(problems[0]).startswith(fact)
    assert "/dev/sda" in str(problems[0])


def test_what_known_facts_exclude_need_not_be_known_better() -> None:
    machine = of_facts(STRUCTURED)
    found = lay_out(wanted(transport="nvme", size="< 1 TB"), machine)
    assert isinstance(found, Layout), "the large disk is none of them, whatever it hangs on"


def test_disks_on_different_controllers_cannot_be_told_from_facts() -> None:
    disks = {"count": 2, "where": {"size": "< 1 TB"}, "on_different_controllers": True}
    problems = lay_out(plan(disks=disks), of_facts(FLAT))
    assert isinstance(problems, list)
    assert str(problems[0]).startswith("disks.on_different_controllers: the facts of CZ1234 do not")


def bedplate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def fleet(room: Path, documents: dict[str, Any], **changes: Any) -> Result:
    (room / "plans").mkdir()
    (room / "facts").mkdir()
    for serial in ("CZ1234", "CZ1235"):
        content = plans.small(
            machine={"serial": serial},
            hostname=f"{serial.lower()}.example.com",
            id=f"0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c{serial[2:]}",
            disks={"count": 2, "where": {"size": "< 1 TB"}},
            **changes,
        )
        (room / "plans" / f"{serial}.yaml").write_text(yaml.safe_dump(content))
    for name, document in documents.items():
        (room / "facts" / name).write_text(json.dumps(document))
    return bedplate("preview", "--fleet", room / "plans", "--inventories", room / "facts")


def test_a_fleet_is_previewed_from_one_answer_of_foreman(tmp_path: Path) -> None:
    other = {**FLAT, "serialnumber": "CZ1235", "macaddress_eno1": "52:54:00:aa:bb:11"}
    done = fleet(tmp_path, {"facts.json": {"results": {"a": FLAT, "b": other}}})
    assert done.exit_code == 0, done.output
    assert "2 machines: layout A" in done.stdout
    assert "firmware" not in done.stdout
    assert "seen only on the machine: whether it starts by UEFI, whether it has a TPM 2.0, how" in (
        done.stdout
    )


def test_a_record_and_facts_lie_side_by_side(tmp_path: Path) -> None:
    recorded = of_facts({**FLAT, "serialnumber": "CZ1235"})
    known = {"unknown": (), "firmware": {"uefi": True}}
    record = Inventory.model_validate(recorded.model_dump() | known)
    done = fleet(tmp_path, {"a.json": FLAT, "b.json": record.model_dump(mode="json")})
    assert done.exit_code == 0, done.output
    assert "2 plans, and each can be laid out on its machine" in done.stdout


def test_facts_with_a_hole_name_the_file_the_host_and_the_fact(tmp_path: Path) -> None:
    broken = {**FLAT, "blockdevice_sda_size": "447 GiB"}
    done = fleet(tmp_path, {"facts.json": {"results": {"a": broken}}})
    assert done.exit_code == 4
    assert "facts.json: a: blockdevice_sda_size: is missing or no number of bytes" in done.stderr


def test_one_plan_is_previewed_on_facts_with_what_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(
        plans.text_of(plans.small(disks={"count": 2, "where": {"size": "< 1 TB"}}))
    )
    (tmp_path / "facts.json").write_text(json.dumps(FLAT))
    done = bedplate(
        "preview", tmp_path / "plan.yaml", "--inventory", tmp_path / "facts.json", "--offline"
    )
    assert done.exit_code == 0, done.output
    assert "what is lost is not known: these facts do not say what lies on the disks" in done.stdout
    assert "not known before the machine is seen: whether it has a TPM 2.0" in done.stdout
    (tmp_path / "facts.json").write_text(json.dumps({"results": {"a": FLAT, "b": FLAT}}))
    done = bedplate("preview", tmp_path / "plan.yaml", "--inventory", tmp_path / "facts.json")
    assert done.exit_code == 3
    assert "holds the facts of 2 machines, one is looked at" in done.stderr
