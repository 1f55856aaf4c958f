"""The presets: what each benchmark asks for, what extends what, and what a site adds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.errors import PlanError
from agent.plan.catalog import BUILT_IN, Catalog
from agent.plan.loader import load
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.plan.preset import Options, Preset, all_presets, load_preset
from agent.plan.preset_table import table
from agent.plan.render import render
from agent.plan.size import GiB, MiB
from agent.plan.wish import Grow, StorageWish, wish
from tests.unit.plan.plans import encrypted, small, text_of

FILES = Path(__file__).parents[3] / "agent/plan/presets"
D, S, X = "nodev", "nosuid", "noexec"
ALL = {D, S, X}
# What each benchmark's own table says of each mount point: the options that have a rule.
ASKED: dict[str, dict[str, set[str]]] = {
    "plain": {},
    "cis-l1-server": {"/tmp": ALL, "/dev/shm": ALL},
    "cis-l2-server": {
        **dict.fromkeys(("/tmp", "/dev/shm", "/var/tmp", "/var/log", "/var/log/audit"), ALL),
        **{key: {D, S} for key in ("/home", "/var")},
    },
    "anssi-high": {
        **dict.fromkeys(("/home", "/tmp", "/var", "/var/log", "/var/tmp", "/boot"), ALL),
        **{key: {D, S} for key in ("/opt", "/srv")},
        "/boot/efi": ALL,
        "/var/log/audit": {D},
    },
}
STIG = {
    **dict.fromkeys(("/home", "/tmp", "/dev/shm", "/var/log", "/var/log/audit", "/var/tmp"), ALL),
    "/var": {D},
    "/boot": {D, S},
    "/boot/efi": {D, S},
}
ASKED |= dict.fromkeys(("stig-rhel8", "stig-rhel9", "stig-rhel10"), STIG)
ASKED["cis-l2+stig-rhel9"] = {**STIG, "/var": {D, S}}

# Every rule id of the benchmarks' own lists that speaks of local partitions and mount options.
RULES = {
    "cis-l2-server": {
        f"CIS-1.1.2.{mount}.{rule}"
        for mount, last in zip(range(1, 8), (4, 4, 3, 3, 4, 4, 4), strict=True)
        for rule in range(1, last + 1)
    },
    "stig-rhel8": {
        *(f"RHEL-08-0105{n}" for n in (40, 41, 42, 43, 44, 70, 71, 72, 80, 90)),
        *(f"RHEL-08-0401{n}" for n in range(20, 35)),
        *("RHEL-08-010800", "RHEL-08-030660"),
    },
    "stig-rhel10": {
        *(f"RHEL-10-0005{n}" for n in range(20, 80, 10)),
        *(f"RHEL-10-4003{n}" for n in (55, 60, 65)),
        *(f"RHEL-10-4004{n}" for n in ("00", "05", "10")),
        *(f"RHEL-10-7001{n}" for n in range(20, 100, 5)),
        *("RHEL-10-700200", "RHEL-10-500100"),
    },
}


def rules_of(preset: Preset) -> set[str]:
    """Return every rule that has a place in the preset; those of volumes made on demand too."""
    found = {rule for volume in preset.volumes for rule in volume.rules}
    found |= {rule for v in preset.volumes if v.least for rule in v.least.rules}
    found |= {rule for tmpfs in preset.tmpfs for rule in tmpfs.rules}
    return found | {rule for _, o in places(preset) for rules in o.values() for rule in rules}


def places(preset: Preset) -> Iterator[tuple[str, Options]]:
    """Yield every mount point with its options; volumes made on demand too."""
    yield from ((volume.mount, volume.options) for volume in preset.volumes)
    yield from ((tmpfs.mount, tmpfs.options) for tmpfs in preset.tmpfs)
    yield preset.boot.mount, preset.boot.options
    yield preset.esp.mount, preset.esp.options


def wished(storage: dict[str, Any]) -> StorageWish:
    return wish(Plan.model_validate({**encrypted(), "storage": storage}))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_mount_has_exactly_the_options_that_its_benchmark_has_rules_for(name: str) -> None:
    preset = load_preset(name)
    asked = {mount: {o for o, rules in of.items() if rules} for mount, of in places(preset)}
    on_demand = {volume.mount for volume in preset.volumes if volume.optional}
    made = {mount: options for mount, options in asked.items() if mount not in on_demand}
    assert {mount: options for mount, options in made.items() if options} == ASKED[name]


@pytest.mark.parametrize("name", RULES)
def test_no_rule_of_the_benchmark_is_forgotten_or_invented(name: str) -> None:
    assert rules_of(load_preset(name)) == RULES[name]


def test_level_1_names_the_options_of_level_2_for_volumes_that_a_plan_adds() -> None:
    asked = {volume.mount for volume in wished({"preset": "cis-l1-server"}).volumes}
    assert asked == {"/", "/tmp"}
    wishes = wished({"preset": "cis-l1-server", "volumes": [{"mount": "/var/tmp"}]})
    (added,) = (volume for volume in wishes.volumes if volume.mount == "/var/tmp")
    assert (added.size, set(added.options)) == (GiB, ALL)
    only_l2 = {f"CIS-1.1.2.{mount}.1" for mount in range(3, 8)}
    assert rules_of(load_preset("cis-l1-server")) == RULES["cis-l2-server"] - only_l2


def test_the_union_meets_every_rule_of_both() -> None:
    both = load_preset("cis-l2+stig-rhel9")
    cis, stig = load_preset("cis-l2-server"), load_preset("stig-rhel9")
    assert rules_of(both) == rules_of(cis) | rules_of(stig)
    assert both.encryption == stig.encryption
    assert wished({"preset": both.name}).deviations == ()


@pytest.mark.parametrize("preset", all_presets(), ids=lambda preset: preset.name)
def test_a_preset_fits_disks_of_32_gb_and_lets_one_volume_grow(preset: Preset) -> None:
    made = [volume for volume in preset.volumes if not volume.optional]
    fixed = sum(volume.size for volume in made) + preset.boot.size + preset.esp.size
    for_headers = 64 * MiB  # GPT, md and LUKS metadata, rounding to extents
    assert fixed + for_headers <= 32 * 10**9
    assert sum(volume.grow for volume in made) == 1


def test_presets_are_read_once() -> None:
    assert load_preset("plain") is load_preset("plain")


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_files_are_yaml_as_strict_as_a_plans(name: str) -> None:
    _, found = load((FILES / f"{name}.yaml").read_bytes())
    assert found == []


def test_there_is_no_file_that_is_not_listed() -> None:
    assert {path.stem for path in FILES.glob("*.yaml")} == set(BUILT_IN)


OURS = {
    "name": "ours",
    "extends": "stig-rhel9",
    "volumes": [
        {"mount": "/var/lib/pgsql", "size": "20 GiB", "grow": True},
        {"mount": "/var", "options": {"nosuid": ["SITE-7"]}},
        {"mount": "/home", "without": ["noexec"]},
    ],
    "without": ["/var/tmp"],
    "boot": {"size": "2 GiB"},
}


def test_a_preset_of_the_plan_changes_what_it_names_of_the_one_it_extends() -> None:
    wishes = wished({"preset": OURS})
    volumes = {volume.mount: volume for volume in wishes.volumes}
    assert volumes["/var/lib/pgsql"].size == Grow()
    assert volumes["/var/lib/pgsql"].options == ("nodev",)
    assert volumes["/var"].size == 4 * GiB
    assert set(volumes["/var"].options) == {D, S}
    assert set(volumes["/home"].options) == {D, S}
    assert "/var/tmp" not in volumes
    assert (wishes.boot.size, wishes.boot.filesystem) == (2 * GiB, "ext4")
    assert len(volumes["/var/log/audit"].options) == 3


def test_what_a_preset_takes_away_deviates_from_the_one_it_extends() -> None:
    deviations = wished({"preset": OURS}).deviations
    assert [text.removeprefix("deviates from stig-rhel9: ") for text in deviations] == [
        "RHEL-09-231055 (/home: without noexec)",
        "RHEL-09-231035 (/var/tmp: no file system of its own, lies on /var)",
        "RHEL-09-231180 (/var/tmp: without noexec)",
    ]


def test_what_a_plan_takes_away_is_named_with_the_preset_that_asked_for_it() -> None:
    wishes = wished({"preset": "cis-l2+stig-rhel9", "volumes": [{"mount": "/home", "options": []}]})
    assert [deviation.split(" (")[0] for deviation in wishes.deviations] == [
        "deviates from cis-l2-server: CIS-1.1.2.3.2",
        "deviates from cis-l2-server: CIS-1.1.2.3.3",
        "deviates from stig-rhel9: RHEL-09-231045",
        "deviates from stig-rhel9: RHEL-09-231200",
        "deviates from stig-rhel9: RHEL-09-231050",
        "deviates from stig-rhel9: RHEL-09-231055",
    ]


def test_a_volume_left_out_gives_its_size_to_the_one_it_lies_on() -> None:
    wishes = wished({"preset": "stig-rhel9", "without": ["/var/log", "/var/log/audit", "/var"]})
    volumes = {volume.mount: volume for volume in wishes.volumes}
    assert set(volumes) == {"/", "/home", "/tmp", "/var/tmp"}
    assert (volumes["/"].size, volumes["/"].minimum) == (Grow(), (8 + 4 + 2 + 10) * GiB)
    rules = {deviation.split()[3] for deviation in wishes.deviations}
    assert {"RHEL-09-231020", "RHEL-09-231025", "RHEL-09-231030", "RHEL-09-231165"} <= rules


def test_a_plan_with_a_preset_of_its_own_reads_back_as_the_same() -> None:
    plan = parse(text_of({**small(), "storage": {"preset": OURS}}))
    again = parse(render(plan).encode())
    assert again == plan
    assert again.storage.preset.lineage() == plan.storage.preset.lineage()


def site(folder: Path, **presets: Any) -> Catalog:
    for name, content in presets.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **content}))
    return Catalog(folder)


def test_a_site_has_presets_of_its_own(tmp_path: Path) -> None:
    catalog = site(tmp_path, base={**OURS, "name": "base"}, web={"extends": "base"})
    assert catalog.names() == (*BUILT_IN, "base", "web")
    plan = parse(text_of(small(storage={"preset": "web"})), catalog)
    assert plan.storage.preset.name == "web"
    assert [one.name for one in plan.storage.preset.lineage()] == ["stig-rhel9", "base", "web"]
    assert "deviates from stig-rhel9: RHEL-09-231055 (/home: without noexec)" in (
        wish(plan).deviations
    )
    assert yaml.safe_load(render(plan))["storage"] == {"preset": "web"}


@pytest.mark.parametrize(
    ("presets", "problem"),
    [
        ({"a": {"extends": "b"}, "b": {"extends": "a"}}, "a extends b extends a: a circle"),
        ({"a": {"extends": "a"}}, "a extends a: a circle"),
        ({"a": {"name": "b", "extends": "plain"}}, "a.yaml: name: b must be a"),
        ({"a": {}}, "a.yaml: volumes: is missing: the volumes (line 1)"),
        ({"a": {"extends": "nothing"}}, '"nothing" is not one of plain'),
    ],
)
def test_a_wrong_file_of_the_site_is_named(
    tmp_path: Path, presets: dict[str, Any], problem: str
) -> None:
    catalog = site(tmp_path, **presets)
    with pytest.raises(PlanError) as caught:
        parse(text_of(small(storage={"preset": "a"})), catalog)
    assert str(tmp_path) in str(caught.value)
    assert problem in str(caught.value)


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: [")
    with pytest.raises(PlanError, match=r"a\.yaml: line 2: is not YAML"):
        parse(text_of(small(storage={"preset": "a"})), Catalog(tmp_path))


def test_presets_that_extend_each_other_too_deep_are_refused(tmp_path: Path) -> None:
    chain = {f"p{n}": {"extends": f"p{n + 1}"} for n in range(12)}
    catalog = site(tmp_path, **chain, p12={"extends": "plain"})
    with pytest.raises(PlanError, match="more than 8 deep"):
        parse(text_of(small(storage={"preset": "p0"})), catalog)


@pytest.mark.parametrize("preset", all_presets(), ids=lambda preset: preset.name)
def test_the_table_names_every_rule(preset: Preset) -> None:
    text = " ".join(rule for row in table(preset) for rule in row.rules)
    assert {word.strip(",") for word in text.split()} >= rules_of(preset)
