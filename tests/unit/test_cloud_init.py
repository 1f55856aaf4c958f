"""cloud-init in the installed system: switched off, or running with the plan's seed alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.checks.configure import ConfigureFits
from agent.plan.configure import Configure
from agent.target.cloud_init import OFF, SEED, SETTINGS, cloud_init
from agent.target.tree import Tree
from tests.unit.fakes import plan, sample_manifest
from tests.unit.fakes_target import Bench, FakeMounts
from tests.unit.plan.plans import problems_of, small
from tests.unit.target.sample import MACHINE_ID, debian
from tests.unit.test_steps_target import configure

USER_DATA = "#cloud-config\nruncmd: [[touch, /x]]\n"
NETWORK = "network: {version: 2, ethernets: {any: {match: {name: 'en*'}, dhcp4: true}}}\n"

writes_a_tree = pytest.mark.skipif(os.geteuid() != 0, reason="files of the tree get their owners")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = debian(tmp_path / "target")
    (made.root / "usr/bin/cloud-init").write_text("")
    return made


def files(tree: Tree, **seed: str) -> dict[str, Any]:
    given = Configure.model_validate({"cloud_init": seed} if seed else {}).cloud_init
    made = cloud_init(tree, given, "db01.example.com", MACHINE_ID)
    return {str(file.path): file for file in made}


def settings(found: dict[str, Any]) -> Any:
    return yaml.safe_load(found[SETTINGS].content)


# --- the plan


@pytest.mark.parametrize("seed", [None, "disabled"])
def test_without_a_seed_the_plan_says_disabled(seed: str | None) -> None:
    given = {} if seed is None else {"cloud_init": seed}
    assert Configure.model_validate(given).cloud_init is None


@pytest.mark.parametrize(
    ("seed", "problem"),
    [
        ("enabled", "configure.cloud_init: must be a mapping of keys, is text"),
        ({}, "configure.cloud_init.user_data: is missing: what cloud-init does: `#cloud-config`"),
        (
            {"user_data": "runcmd: []"},
            "configure.cloud_init.user_data: does not begin as cloud-init wants it: #cloud-config",
        ),
        (
            {"user_data": "#cloud-config\nruncmd: [\n"},
            "configure.cloud_init.user_data: is no YAML mapping below #cloud-config",
        ),
        (
            {"user_data": USER_DATA, "meta_data": "local-hostname: x"},
            "configure.cloud_init.meta_data: has no instance-id: without one every boot is the fir",
        ),
        (
            {"user_data": USER_DATA, "network_config": "ethernets: {}"},
            "configure.cloud_init.network_config: has no version: write version: 2, as netplan has",
        ),
        (
            {"user_data": "#!/bin/sh\n" + "x" * (256 << 10)},
            "configure.cloud_init.user_data: has 262154 characters, there may be 262144",
        ),
    ],
)
def test_a_seed_that_cloud_init_would_not_read_is_refused(seed: Any, problem: str) -> None:
    (found,) = problems_of(small(configure={"cloud_init": seed}))
    assert found.startswith(problem)


def test_the_network_is_set_up_by_one_of_the_two() -> None:
    seed = {"user_data": USER_DATA, "network_config": NETWORK}
    static = {"match": {"name": "eno1"}, "addresses": ["192.0.2.9/24"]}
    (found,) = problems_of(small(configure={"cloud_init": seed, "network": static}))
    assert found == (
        "configure.network: cloud_init.network_config sets up the network too: give one of the two"
    )
    assert problems_of(small(configure={"cloud_init": seed})) == []


def test_a_seed_is_in_no_representation_of_a_plan() -> None:
    wanted = plan(configure={"cloud_init": {"user_data": "#!/bin/sh\necho hunter2\n"}})
    assert "hunter2" not in repr(wanted)


# --- the tree


def test_an_image_without_cloud_init_gets_no_file_of_it(tmp_path: Path) -> None:
    assert files(debian(tmp_path / "bare")) == {}


def test_cloud_init_is_switched_off_where_the_plan_has_no_seed(tree: Tree) -> None:
    assert list(files(tree)) == [OFF]


@writes_a_tree
def test_with_a_seed_it_runs_with_that_alone(tree: Tree) -> None:
    for file in files(tree).values():
        tree.write(file)
    (tree.root / "var/lib/cloud").mkdir(parents=True)
    (tree.root / "var/lib/cloud/instance").symlink_to("instances/golden")
    found = files(tree, user_data=USER_DATA)
    assert not tree.exists(OFF), "what kept it from running is gone"
    assert not tree.is_link("/var/lib/cloud/instance"), "it is no start of the golden machine"
    assert settings(found) == {
        "datasource_list": ["NoCloud"],
        "ssh_deletekeys": False,
        "network": {"config": "disabled"},
    }
    assert found[f"{SEED}/user-data"].content.decode() == USER_DATA
    assert json.loads(found[f"{SEED}/meta-data"].content) == {
        "instance-id": MACHINE_ID.hex,
        "local-hostname": "db01.example.com",
    }
    assert all(found[f"{SEED}/{name}"].mode == 0o600 for name in ("user-data", "meta-data"))
    assert f"{SEED}/network-config" not in found


def test_a_network_of_the_seed_is_cloud_init_s_to_set_up(tree: Tree) -> None:
    found = files(tree, user_data=USER_DATA, network_config=NETWORK, meta_data="instance-id: a")
    assert "network" not in settings(found)
    assert found[f"{SEED}/network-config"].content.decode() == NETWORK
    assert found[f"{SEED}/meta-data"].content == b"instance-id: a"


@writes_a_tree
def test_a_host_configured_with_a_network_of_the_seed_has_none_of_ours(
    tree: Tree, tmp_path: Path
) -> None:
    bench = Bench(FakeMounts(tmp_path / "devices"))
    seed = {"user_data": USER_DATA, "network_config": NETWORK}
    configure(tree.root, bench, cloud_init=seed)
    assert tree.exists(f"{SEED}/network-config")
    assert not tree.names("/etc/systemd/network")
    configure(tree.root, bench)
    assert tree.exists(OFF)
    assert tree.names("/etc/systemd/network")


def test_a_seed_for_an_image_without_cloud_init_is_refused_by_name() -> None:
    wanted = Configure.model_validate({"cloud_init": {"user_data": USER_DATA}})
    (problem,) = ConfigureFits(sample_manifest(), wanted).problems(None)  # type: ignore[arg-type]
    assert str(problem).startswith(
        "configure.cloud_init: debian13 has no cloud-init that would read the seed: build it with"
    )
    assert not list(ConfigureFits(sample_manifest(), Configure()).problems(None))  # type: ignore[arg-type]
